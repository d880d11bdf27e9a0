"""What can go wrong with the ledger."""

from collections.abc import Collection

from services.aggregation.records import Judge
from services.runtime.database_engine import RETRY_AFTER_SECONDS
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


class QualityOfAnotherJudgeError(FailedPreconditionError):
    """The judge whose quality was measured is not the one that judged the run."""

    default_reason = "QUALITY_OF_ANOTHER_JUDGE"

    def __init__(self, metric: str, task: str, measured: Judge, others: Collection[Judge]) -> None:
        found = ", ".join(sorted(f"{each.name} {each.version} {each.digest}" for each in others)[:5])
        found = found or f"nobody called {measured.name}"
        super().__init__(
            f"the quality for {metric} was measured of {measured.name} {measured.version} {measured.digest}, and "
            f"{task} was judged by {found}: measure the one that judged it, or give counts that you answer for "
            "yourself",
            metadata={
                "metric": metric,
                "task": task,
                "judge": measured.name,
                "measured_digest": measured.digest,
                "found_digests": ",".join(sorted(each.digest for each in others)[:20]),
            },
        )


class PruneInProgressError(FailedPreconditionError):
    """Somebody else is taking something out of the ledger; one does at a time."""

    default_reason = "PRUNE_IN_PROGRESS"

    def __init__(self) -> None:
        super().__init__("the ledger is being pruned already; try again when that has ended")


class TextsMovingError(FailedPreconditionError):
    """The texts of an older ledger are being moved; what nothing refers to is not known before that has ended."""

    default_reason = "TEXTS_MOVING"

    def __init__(self) -> None:
        super().__init__("the texts of this ledger, which an earlier release wrote, are being moved; try again later")


class LedgerUnavailableError(UnavailableError):
    """The database did not take or give data; sending the same results again is safe."""

    default_reason = "LEDGER_UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_seconds: float = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class LedgerReplacedError(LedgerUnavailableError):
    """What was read is of a database that another has replaced meanwhile, perhaps without the last commits."""

    def __init__(self) -> None:
        super().__init__("another server holds the ledger now, perhaps an earlier state of it; try again")
