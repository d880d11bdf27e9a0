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


class LedgerUnavailableError(UnavailableError):
    """The database did not take or give data; sending the same results again is safe."""

    default_reason = "LEDGER_UNAVAILABLE"
