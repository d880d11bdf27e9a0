"""Rows in, outcomes out, in the same order: some rows hold nothing that could be asked."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

from evalfleet.errors import EvalFleetError, InvalidArgumentError

Row: TypeAlias = Mapping[str, Any] | EvalFleetError
"""A row of the input by its columns, or why it is none."""
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


def outcomes(
    rows: Iterable[Row],
    request_of: Callable[[Mapping[str, Any]], RequestT],
    ask: Callable[[Iterator[RequestT]], Iterator[tuple[int, ResultT | EvalFleetError]]],
) -> Iterator[ResultT | EvalFleetError]:
    """Yield what became of each row, in their order; a row that holds no request is answered here.

    Args:
        rows: read in a thread of gRPC's.
        request_of: makes the request of a row, or raises ValueError.
        ask: yields (number, outcome) of each request in their order.
    """
    waiting: deque[EvalFleetError | None] = deque()

    def requests() -> Iterator[RequestT]:
        for row in rows:
            try:
                if isinstance(row, EvalFleetError):
                    waiting.append(row)
                    continue
                request = request_of(row)
            except ValueError as error:
                waiting.append(InvalidArgumentError(f"the row {error}", reason="ROW_INVALID"))
                continue
            waiting.append(None)
            yield request

    for _, outcome in ask(requests()):
        while (problem := waiting.popleft()) is not None:
            yield problem
        yield outcome
    yield from (each for each in waiting if each is not None)
