"""The guards of this service, by name."""

from collections.abc import Sequence
from typing import Final

from services.runtime.errors import not_found
from services.safety.errors import invalid_field
from services.safety.guard import Guard

COLLECTION: Final = "guards"


class GuardCatalogue:
    """Holds the guards.

    Args:
        guards: at least one; the first is the default. Their names differ.
    """

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._default = guards[0]
        self._guards = {guard.about.name: guard for guard in guards}

    @property
    def guards(self) -> tuple[Guard, ...]:
        """All guards, in no particular order."""
        return tuple(self._guards.values())

    def find(self, name: str, *, field: str) -> Guard:
        """Return a guard by its resource name, ``guards/{guard}``.

        Args:
            name: as the request gives it.
            field: the request field, for the error.

        Raises:
            InvalidArgumentError: the name is no resource name of a guard.
            NotFoundError: there is none of that name; suggests the nearest.
        """
        if not name.startswith(f"{COLLECTION}/") or name == f"{COLLECTION}/":
            raise invalid_field(field, f"must look like {COLLECTION}/{{guard}}, got {name!r}", reason="NAME_INVALID")
        guard = self._guards.get(name)
        if guard is None:
            raise not_found("guard", name, self._guards)
        return guard

    def choose(self, name: str) -> Guard:
        """Return the guard that a classification asks for; the default one if it names none."""
        return self.find(name, field="guard") if name else self._default

    async def are_ready(self) -> bool:
        """Return whether every guard can judge now."""
        return all([await guard.is_ready() for guard in self._guards.values()])
