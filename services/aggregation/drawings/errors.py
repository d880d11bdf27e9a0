"""What can go wrong with drawings."""

from collections.abc import Sequence

from services.aggregation.records import Result
from services.runtime.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    OutOfRangeError,
)


class DrawingExistsError(AlreadyExistsError):
    """The run's task has a drawing of other items, or with other questions."""

    default_reason = "DRAWING_DIFFERS"

    def __init__(self, run: str, task: str) -> None:
        super().__init__(
            f"task {task!r} of {run} has a drawing of other items, or with another spec; start a new run for this one",
            metadata={"run": run, "task": task},
        )


class LateDrawingError(FailedPreconditionError):
    """The task has results already; an order that is chosen after them could be chosen because of them."""

    default_reason = "RESULTS_BEFORE_DRAWING"

    def __init__(self, run: str, task: str) -> None:
        super().__init__(
            f"task {task!r} of {run} has results already; draw before the first one, in a new run",
            metadata={"run": run, "task": task},
        )


class DrawingDamagedError(DataLossError):
    """A stored batch does not follow from its drawing's seed."""

    default_reason = "DRAWING_DAMAGED"

    def __init__(self, run: str, task: str, batch: int) -> None:
        super().__init__(
            f"batch {batch} of the drawing of task {task!r} of {run} does not follow from its seed: "
            "somebody changed the ledger",
            metadata={"run": run, "task": task, "batch": str(batch)},
        )


class InvalidDrawingError(InvalidArgumentError):
    """A drawing's spec or items cannot be used."""

    default_reason = "INVALID_DRAWING"


class WrongDrawError(InvalidArgumentError):
    """Results name draws that their task's drawing does not have for their items; the others were stored.

    Args:
        results: of the message.
        wrong: which of them were refused, at least one.
    """

    default_reason = "WRONG_DRAW_INDEX"

    def __init__(self, results: Sequence[Result], wrong: Sequence[int]) -> None:
        first = results[wrong[0]]
        super().__init__(
            f"draw {first.draw_index} of task {first.key.task!r} of {first.run} is not one of item {first.key.item!r}; "
            f"{len(wrong)} results of this message were refused, the other {len(results) - len(wrong)} stored",
            metadata={
                "result_index": str(wrong[0]),
                "run": first.run,
                "task": first.key.task,
                "item": first.key.item,
                "refused_count": str(len(wrong)),
            },
            field_violations=[
                FieldViolation(
                    f"results[{number}].draw_index",
                    f"is {results[number].draw_index}, which is no draw of item {results[number].key.item!r}",
                )
                for number in wrong
            ],
        )


class DrawIndexError(OutOfRangeError):
    """Items are drawn one after another, without a gap."""

    default_reason = "DRAW_INDEX_OUT_OF_RANGE"

    def __init__(self, run: str, task: str, first: int, drawn: int) -> None:
        super().__init__(
            f"first_draw_index is {first}, and {drawn} items of task {task!r} of {run} are drawn; go on from there",
            metadata={"run": run, "task": task, "drawn_count": str(drawn)},
            field_violations=(FieldViolation("first_draw_index", f"is {first}; at most {drawn}"),),
        )
