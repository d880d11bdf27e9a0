"""Collects everything that is wrong with a request, so that its caller can mend it in one go."""

from services.runtime.errors import FieldViolation, InvalidArgumentError

_SHOWN = 3


class Violations:
    """The invalid fields of one request, by path."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """Note an invalid field and what to do about it."""
        self._found.append(FieldViolation(field, description))

    def require(self, is_valid: bool, field: str, description: str) -> None:
        """Note an invalid field unless ``is_valid``."""
        if not is_valid:
            self.add(field, description)

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            InvalidArgumentError: with one violation a field; the message spells out the first few.
        """
        if not self._found:
            return
        texts = [f"{violation.field} {violation.description}" for violation in self._found]
        more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        raise InvalidArgumentError(
            "; ".join(texts[:_SHOWN]) + more, reason="INVALID_REQUEST", field_violations=self._found
        )
