"""What can go wrong when runs are ranked."""

from services.runtime.errors import FailedPreconditionError


class OrdersDifferError(FailedPreconditionError):
    """Two runs did not draw the same items in the same order, or their order was not left to the seed alone."""

    default_reason = "RUNS_NOT_COMPARABLE"

    def __init__(self, run: str, task: str, problem: str) -> None:
        super().__init__(
            f"{run} cannot be ranked by task {task!r}: {problem}; draw with the same seed and without history",
            metadata={"run": run, "task": task},
        )
