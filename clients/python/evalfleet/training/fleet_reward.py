"""What reward functions that ask a fleet have in common: batches, time limits, and what becomes of trouble."""

import asyncio
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from evalfleet.errors import EvalFleetError
from evalfleet.fleet import Fleet
from evalfleet.training.completions import Completion
from evalfleet.training.following import is_passing
from evalfleet.training.gathering import Gatherer

LARGEST_BATCH = 256
TIMEOUT_SECONDS = 60.0
LINGER_SECONDS = 0.005
_RETRY_SECONDS = 0.5

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_log = logging.getLogger("evalfleet.training")


class NoAnswerError(EvalFleetError):
    """The fleet did not answer within the time that a reward may take."""


class FleetReward(ABC, Generic[ItemT, ResultT]):
    """An asynchronous reward function of TRL: prompts and completions → a number or None each.

    What several calls ask at about the same time goes to the fleet in one batch. A fleet that is away is tried again
    until ``timeout_seconds`` are over; what has no answer then is None, which TRL leaves out of the sum of rewards. A
    mistake in the set-up, such as a guard that does not exist, is raised by the first call; later ones never raise.

    Every process, so every rank, has connections of its own; an instance can be pickled.

    Attributes:
        __name__: by which the trainer logs it.
    """

    def __init__(
        self, name: str, *, connect: Callable[[], Fleet], timeout_seconds: float, linger_seconds: float
    ) -> None:
        if timeout_seconds <= 0:
            raise ValueError("timeout_seconds must be above zero")
        self.__name__ = name
        self._connect = connect
        self._timeout_seconds = timeout_seconds
        self._linger_seconds = linger_seconds
        self._has_answered = False
        self._is_missing_some = False
        self._of_process: tuple[int, Fleet, Gatherer[ItemT, ResultT | EvalFleetError]] | None = None

    async def __call__(
        self,
        prompts: Sequence[Completion],
        completions: Sequence[Completion],
        **columns: Any,
    ) -> list[float | None]:
        """Return the reward of each completion.

        Raises:
            ValueError: a column that is needed is not there.
            EvalFleetError: the first call was refused as a whole.
        """
        items = self._items(prompts, completions, columns)
        futures = self._gatherer().put(items)
        if futures:
            await asyncio.wait(futures, timeout=self._timeout_seconds)
        outcomes = [_outcome(each) for each in futures]
        self._check(outcomes)
        tell = columns.get("log_metric")
        if callable(tell) and outcomes:
            for metric, value in self._counts(outcomes).items():
                tell(f"{self.__name__}/{metric}", value / len(outcomes))
        return [self._reward(each) for each in outcomes]

    def __getstate__(self) -> dict[str, object]:
        """Leave connections behind: another process makes its own."""
        return {**self.__dict__, "_of_process": None}

    @abstractmethod
    def _items(
        self, prompts: Sequence[Completion], completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> list[ItemT]:
        """Return what is asked of each completion."""

    @abstractmethod
    def _ask(self, fleet: Fleet, items: list[ItemT], timeout_seconds: float) -> Sequence[ResultT | EvalFleetError]:
        """Ask the fleet for one batch."""

    @abstractmethod
    def _reward(self, outcome: ResultT | EvalFleetError) -> float | None:
        """Turn an answer, or why there is none, into a reward."""

    def _counts(self, outcomes: Sequence[ResultT | EvalFleetError]) -> dict[str, float]:
        """Return what is counted of a call, by the name under which the trainer logs its share."""
        return {"missing": sum(is_missing(each) for each in outcomes)}

    def _gatherer(self) -> Gatherer[ItemT, ResultT | EvalFleetError]:
        if self._of_process is None or self._of_process[0] != os.getpid():
            fleet = self._connect()
            gatherer = Gatherer[ItemT, "ResultT | EvalFleetError"](
                self._asked, largest=LARGEST_BATCH, linger_seconds=self._linger_seconds
            )
            self._of_process = (os.getpid(), fleet, gatherer)
        return self._of_process[2]

    def _asked(self, items: list[ItemT]) -> Sequence[ResultT | EvalFleetError]:
        """Ask until each item has an answer or the time is up; runs in a thread."""
        give_up_at = time.monotonic() + self._timeout_seconds
        outcomes: dict[int, ResultT | EvalFleetError] = {}
        wanted = list(range(len(items)))
        while True:
            some = [items[each] for each in wanted]
            outcomes.update(zip(wanted, self._once(some, max(0.1, give_up_at - time.monotonic())), strict=True))
            wanted = [each for each in wanted if is_missing(outcomes[each])]
            if not wanted or time.monotonic() + _RETRY_SECONDS > give_up_at:
                return [outcomes[each] for each in range(len(items))]
            time.sleep(_RETRY_SECONDS)

    def _once(self, items: list[ItemT], timeout_seconds: float) -> Sequence[ResultT | EvalFleetError]:
        assert self._of_process is not None
        try:
            return self._ask(self._of_process[1], items, timeout_seconds)
        except EvalFleetError as error:
            return [error] * len(items)

    def _check(self, outcomes: Sequence[ResultT | EvalFleetError]) -> None:
        """Log trouble when it begins and when it ends, and raise what is wrong with the set-up.

        Raises:
            EvalFleetError: nothing has ever been answered, and asking again would not help.
        """
        errors = [each for each in outcomes if isinstance(each, EvalFleetError)]
        lasting = [each for each in errors if not is_missing(each)]
        if outcomes and len(lasting) == len(outcomes) and not self._has_answered:
            raise lasting[0]
        self._has_answered |= len(errors) < len(outcomes)
        if bool(errors) != self._is_missing_some:
            self._is_missing_some = bool(errors)
            if errors:
                _log.warning("%s: %d of %d have no answer: %s", self.__name__, len(errors), len(outcomes), errors[0])
            else:
                _log.info("%s: all are answered again", self.__name__)


def _outcome(future: "asyncio.Future[ResultT | EvalFleetError]") -> ResultT | EvalFleetError:
    """Return what came, or why nothing did; what has not come yet is no longer waited for."""
    if not future.done():
        future.cancel()
        return NoAnswerError("the fleet did not answer in time", reason="NO_ANSWER")
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, EvalFleetError) else EvalFleetError(f"{type(error).__name__}: {error}")


def is_missing(outcome: object) -> bool:
    """Whether the fleet could not be asked in time, as against: would not judge this one."""
    return isinstance(outcome, Exception) and (isinstance(outcome, NoAnswerError) or is_passing(outcome))
