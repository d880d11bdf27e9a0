"""The arguments of an instruction, as IFEval's rows have them."""

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

AT_LEAST: Literal["at least"] = "at least"
LESS_THAN: Literal["less than"] = "less than"


class ArgumentError(ValueError):
    """An argument is missing or makes no sense."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(description)
        self.name = name


class Arguments:
    """Reads arguments, each checked; those that are ``None``, zero or empty count as absent.

    lm-evaluation-harness, for which they do so too, draws what is absent at random; here it is an error.
    """

    def __init__(self, given: Mapping[str, JsonValue]) -> None:
        self._given = {name: value for name, value in given.items() if value}
        self._read: set[str] = set()

    def text(self, name: str) -> str:
        """Return a text; raises ``ArgumentError``."""
        value = self._value(name)
        if not isinstance(value, str):
            raise ArgumentError(name, "must be text")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; raises ``ArgumentError``."""
        value = self._value(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ArgumentError(name, "must be a list of texts")
        return [each for each in value if isinstance(each, str)]

    def count(self, name: str) -> int:
        """Return a whole number of 1 or more; raises ``ArgumentError``."""
        value = self._value(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArgumentError(name, "must be a whole number of at least 1")
        return value

    def compares(self, relation: str, threshold: str, actual: int) -> bool:
        """Whether a count has the relation ("less than" or "at least") to a threshold; raises ``ArgumentError``."""
        wanted, limit = self.text(relation), self.count(threshold)
        if wanted not in (AT_LEAST, LESS_THAN):
            raise ArgumentError(relation, f"must be {AT_LEAST!r} or {LESS_THAN!r}")
        return actual >= limit if wanted == AT_LEAST else actual < limit

    def check_all_were_read(self) -> None:
        """Raise ``ArgumentError`` if one was given that the instruction doesn't have."""
        for name in self._given:
            if name not in self._read:
                raise ArgumentError(
                    name, f"the instruction has no such argument; it has {sorted(self._read) or 'none'}"
                )

    def _value(self, name: str) -> JsonValue:
        self._read.add(name)
        if name not in self._given:
            raise ArgumentError(name, "is missing")
        return self._given[name]
