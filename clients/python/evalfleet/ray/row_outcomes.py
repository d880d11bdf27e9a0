"""Rows in, outcomes out, in the same order: some rows hold nothing that could be asked."""

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
    ask: Callable[[Iterator[RequestT | EvalFleetError]], Iterator[tuple[int, ResultT | EvalFleetError]]],
) -> Iterator[ResultT | EvalFleetError]:
    """Yield what became of each row, in their order; a row that holds no request has what is wrong with it.

    Args:
        rows: read in a thread of gRPC's.
        request_of: makes the request of a row, or raises ValueError.
        ask: yields (number, outcome) of each request in their order; an error among them is its own outcome. It counts
            like the others, so that no more rows are held than may be in flight.
    """

    def request_or_error(row: Row) -> RequestT | EvalFleetError:
        if isinstance(row, EvalFleetError):
            return row
        try:
            return request_of(row)
        except ValueError as error:
            return InvalidArgumentError(f"the row {error}", reason="ROW_INVALID")

    for _, outcome in ask(request_or_error(each) for each in rows):
        yield outcome
