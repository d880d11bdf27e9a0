"""What can go wrong with the ledger."""

from services.runtime.errors import (
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    UnavailableError,
)


class InvalidResultError(InvalidArgumentError):
    """A message or a result of it is not fit for the ledger; nothing of that message was stored."""

    default_reason = "INVALID_RESULT"


class InvalidLedgerRequestError(InvalidArgumentError):
    """A read request is malformed."""

    default_reason = "INVALID_LEDGER_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}", field_violations=(FieldViolation(field, problem),))


class LeaseLostError(FailedPreconditionError):
    """Another worker has taken the run over, so this one may not write any more; nothing of its message was stored."""

    default_reason = "RUN_LEASE_LOST"

    def __init__(self, run: str, epoch: int, newest_epoch: int) -> None:
        super().__init__(
            f"{run} was taken over by another worker (lease {newest_epoch} after {epoch}); nothing was stored",
            metadata={"run": run, "epoch": str(epoch), "newest_epoch": str(newest_epoch)},
        )


class RunDeletedError(FailedPreconditionError):
    """The results of the run were deleted from the ledger: there are none to read, and none are taken."""

    default_reason = "RUN_RESULTS_DELETED"

    def __init__(self, run: str) -> None:
        super().__init__(f"the results of {run} were deleted from the ledger; start a new run", metadata={"run": run})


class RunInProgressError(FailedPreconditionError):
    """The run had results a short while ago, so it may be in progress; nothing was deleted."""

    default_reason = "RUN_MAY_BE_IN_PROGRESS"

    def __init__(self, run: str) -> None:
        super().__init__(
            f"{run} got results within the last two hours, so it may be in progress; nothing was deleted: "
            "delete it later, or say that it has ended",
            metadata={"run": run},
        )


class PruneInProgressError(FailedPreconditionError):
    """Somebody else is taking something out of the ledger; one does at a time."""

    default_reason = "PRUNE_IN_PROGRESS"

    def __init__(self) -> None:
        super().__init__("the ledger is being pruned already; try again when that has ended")


class LedgerUnavailableError(UnavailableError):
    """The database did not take or give data; sending the same results again is safe."""

    default_reason = "LEDGER_UNAVAILABLE"
