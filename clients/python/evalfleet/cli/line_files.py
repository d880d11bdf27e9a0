"""Files of JSON lines: one outcome a line, in the file's order, with a bar while they are worked on."""

from collections.abc import Callable, Iterable, Iterator
from typing import IO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evalfleet.errors import EvalFleetError

LineT = TypeVar("LineT")
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


def outcomes_in_order(
    lines: Iterable[tuple[LineT, RequestT | EvalFleetError]],
    ask_many: Callable[[Iterator[RequestT]], Iterator[tuple[int, ResultT | EvalFleetError]]],
) -> Iterator[tuple[LineT, ResultT | EvalFleetError]]:
    """Yield each line with what became of it, in their order.

    Args:
        lines: each with what it asks for, or what is wrong with it.
        ask_many: yields (index of the request, its outcome) in any order.
    """
    waiting: dict[int, tuple[LineT, ResultT | EvalFleetError | None]] = {}
    sent: dict[int, int] = {}

    def requests() -> Iterator[RequestT]:
        count = 0
        for order, (line, request) in enumerate(lines):
            if isinstance(request, EvalFleetError):
                waiting[order] = line, request
                continue
            waiting[order] = line, None
            sent[count] = order
            count += 1
            yield request

    following = 0
    for index, outcome in ask_many(requests()):
        order = sent.pop(index)
        waiting[order] = waiting[order][0], outcome
        while (ready := waiting.get(following)) is not None and ready[1] is not None:
            yield ready[0], ready[1]
            del waiting[following]
            following += 1
    for order in sorted(waiting):
        line, result = waiting[order]
        assert result is not None, "the stream has ended, so every line has an outcome"
        yield line, result


def numbered_lines(source: IO[str]) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text) of each line that is not blank."""
    for number, text in enumerate(source, start=1):
        if text.strip():
            yield number, text


def line_count(source: IO[str]) -> int | None:
    """Count the lines that are not blank, and go back to where it was; None for what cannot go back."""
    if not source.seekable():
        return None
    start = source.tell()
    count = sum(1 for line in source if line.strip())
    source.seek(start)
    return count


def progress_bar(console: Console, *, is_shown: bool) -> Progress:
    """Make a bar; where the results go to the same terminal, it would be torn apart by them and is not shown."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not (is_shown and console.is_terminal))
