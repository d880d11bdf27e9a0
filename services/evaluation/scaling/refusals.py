"""Calls that could not be served because a deployment was asleep: they want it awake though they left no run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from services.evaluation.errors import RunsUnavailableError, ScoringUnavailableError
from services.runtime.errors import UnavailableError

_HELD_SECONDS: Final = 600.0
_OF_NO_MODEL: Final = (RunsUnavailableError, ScoringUnavailableError)
"""Of what these say is away nothing sleeps: a model that is woken would change nothing."""


class Refusals:
    """Remembers of this replica for some minutes that a call was refused, since its caller will come again.

    A run is stored once its model and its judges are known; where their services are not ready without their models,
    nothing would ever be stored, and nothing would wake the models.

    Args:
        held_seconds: how long a refusal counts: longer than waking takes.
        clock: seconds, monotonic.
    """

    def __init__(self, *, held_seconds: float = _HELD_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._held_seconds = held_seconds
        self._clock = clock
        self._until = -float("inf")

    @property
    def are_recent(self) -> bool:
        """Whether a call was refused, and none has gone well since."""
        return self._clock() < self._until

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note it if what is done here fails for a service that is away whose models may be asleep."""
        try:
            yield
        except UnavailableError as error:
            if not isinstance(error, _OF_NO_MODEL):
                self._until = self._clock() + self._held_seconds
            raise
        self._until = -float("inf")
