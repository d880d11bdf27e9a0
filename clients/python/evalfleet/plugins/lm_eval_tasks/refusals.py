"""What of a task cannot be translated, collected field by field."""

from evalfleet.errors import FieldViolation, InvalidArgumentError


class Refusals:
    """Collects what is refused, to be told all at once."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, why: str) -> None:
        """Note that a field cannot be translated."""
        self._found.append(FieldViolation(field, why))

    def raise_if_any(self, task: str) -> None:
        """Refuse the task if anything was noted.

        Raises:
            InvalidArgumentError: TASK_NOT_TRANSLATABLE, with every field.
        """
        if self._found:
            listed = "; ".join(f"{each.field}: {each.description}" for each in self._found)
            raise InvalidArgumentError(
                f"task {task} cannot be translated: {listed}",
                reason="TASK_NOT_TRANSLATABLE",
                metadata={"task": task},
                field_violations=self._found,
            )
