"""What can be wrong with a request to run a program."""

from services.runtime.errors import FieldViolation, InvalidArgumentError


class InvalidProgramError(InvalidArgumentError):
    """The request cannot be run, whatever the program; every violation is listed."""

    default_reason = "INVALID_PROGRAM"

    def __init__(self, *violations: FieldViolation) -> None:
        listed = "; ".join(f"{each.field}: {each.description}" for each in violations)
        super().__init__(f"this program cannot be run: {listed}", field_violations=violations)
