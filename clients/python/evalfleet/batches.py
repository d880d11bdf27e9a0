"""Many requests in batches; what cannot be sent fails alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from evalfleet.errors import EvalFleetError
from evalfleet.message_sizes import LARGEST_ITEM_BYTES, is_too_large, size_bytes, too_large_alone

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


def answered_batches(
    source: Iterable[RequestT | EvalFleetError],
    ask: Callable[[list[RequestT]], Sequence[ResultT]],
    *,
    largest: int,
) -> list[ResultT | EvalFleetError]:
    """Return one result a request, in their order; one that cannot be sent has its error.

    A batch that is too large for the service, or has too large an answer, is asked in halves.

    Args:
        source: the requests, or why there is none.
        ask: sends up to ``largest`` of them, which fit into a message.
        largest: most requests of a batch.

    Raises:
        EvalFleetError: what a batch ended with; WRONG_RESULT_COUNT: nobody knows which result is whose.
    """
    outcomes: list[ResultT | EvalFleetError] = []
    for some in batches_of(source, largest):
        sent = [each for each in some if not isinstance(each, EvalFleetError)]
        outcomes += in_place(some, _asked(sent, ask) if sent else ())
    return outcomes


def _asked(
    requests: list[RequestT], ask: Callable[[list[RequestT]], Sequence[ResultT]]
) -> list[ResultT | EvalFleetError]:
    try:
        return in_place(requests, ask(requests))
    except EvalFleetError as error:
        if not is_too_large(error):
            raise
        if len(requests) == 1:
            return [too_large_alone(error)]
    middle = len(requests) // 2
    return [*_asked(requests[:middle], ask), *_asked(requests[middle:], ask)]


def batches_of(source: Iterable[RequestT | EvalFleetError], largest: int) -> Iterator[list[RequestT | EvalFleetError]]:
    """Yield up to ``largest`` requests, or why there is none, at a time: as many as fit into a message."""
    some: list[RequestT | EvalFleetError] = []
    total = 0
    for each in source:
        size = size_bytes(each)
        if some and (len(some) == largest or total + size > LARGEST_ITEM_BYTES):
            yield some
            some, total = [], 0
        some.append(each)
        total += size
    if some:
        yield some


def in_place(
    requests: Sequence[RequestT | EvalFleetError], results: Sequence[ResultT]
) -> list[ResultT | EvalFleetError]:
    """Return the results in the places of the requests that were sent, and the others' errors in theirs.

    Raises:
        EvalFleetError: WRONG_RESULT_COUNT: nobody knows which result is whose.
    """
    sent_count = sum(not isinstance(each, EvalFleetError) for each in requests)
    if len(results) != sent_count:
        raise EvalFleetError(
            f"the service gave {len(results)} results for {sent_count} requests", reason="WRONG_RESULT_COUNT"
        )
    answers = iter(results)
    return [each if isinstance(each, EvalFleetError) else next(answers) for each in requests]
