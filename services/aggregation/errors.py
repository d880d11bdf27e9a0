"""What can go wrong with the ledger."""

from services.runtime.errors import FieldViolation, InvalidArgumentError, StartupError, UnavailableError


class InvalidResultError(InvalidArgumentError):
    """A message or a result of it is not fit for the ledger; nothing of that message was stored."""

    default_reason = "INVALID_RESULT"


class InvalidLedgerRequestError(InvalidArgumentError):
    """A read request is malformed."""

    default_reason = "INVALID_LEDGER_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}", field_violations=(FieldViolation(field, problem),))


class LedgerUnavailableError(UnavailableError):
    """The database did not take or give data; sending the same results again is safe."""

    default_reason = "LEDGER_UNAVAILABLE"


class LedgerUrlError(StartupError):
    """The ledger's URL names no database that this version can use."""

    default_reason = "LEDGER_URL_INVALID"
