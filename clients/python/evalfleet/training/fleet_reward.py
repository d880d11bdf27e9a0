"""What reward functions that ask a fleet have in common: batches, time limits, and what becomes of trouble."""

import asyncio
import logging
import os
import random
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from evalfleet.errors import (
    EndpointError,
    EvalFleetError,
    ForkedProcessError,
    InvalidArgumentError,
    MissingExtraError,
    NotFoundError,
    PermissionDeniedError,
    SecurityError,
    UnauthenticatedError,
    UnimplementedError,
)
from evalfleet.fleet import Fleet
from evalfleet.retrying import RetryPolicy
from evalfleet.training.completions import Completion
from evalfleet.training.following import is_passing, is_unreachable
from evalfleet.training.gathering import Gatherer
from evalfleet.training.lending import FleetLender

LARGEST_BATCH = 256
TIMEOUT_SECONDS = 60.0
LINGER_SECONDS = 0.005
_RETRY_SECONDS = 0.5
_AWAY_SECONDS = 1.0
_RETRIES = RetryPolicy(restart_seconds=0.0)


def connect() -> Fleet:
    """Connect to a fleet whose services are not waited for: a reward looks for them elsewhere."""
    return Fleet.connect(retries=_RETRIES)


"""How long a call waits while the fleet is known to be away."""

_MISTAKES = (
    EndpointError,
    SecurityError,
    ForkedProcessError,
    MissingExtraError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnimplementedError,
)
# Fields of a request that are the same for all completions.
_OF_ALL = re.compile(r"\b(guard|threshold|policy|scorer|parameters)\b")

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_log = logging.getLogger("evalfleet.training")


class NoAnswerError(EvalFleetError):
    """The fleet did not answer within the time that a reward may take."""


@dataclass(slots=True, eq=False)
class _Line(Generic[ItemT, ResultT]):
    """What one process has to ask a fleet with.

    Attributes:
        answers: clear from a call that had no answer at all until there is one.
        probe: held by the one batch that goes on asking meanwhile.
    """

    process: int
    lender: FleetLender
    gatherer: Gatherer[ItemT, ResultT | EvalFleetError]
    answers: threading.Event = field(default_factory=threading.Event)
    probe: threading.Lock = field(default_factory=threading.Lock)


class FleetReward(ABC, Generic[ItemT, ResultT]):
    """An asynchronous reward function of TRL: prompts and completions → a number or None each.

    What several calls ask at about the same time goes to the fleet in one batch. A fleet that is away is tried again
    until ``timeout_seconds`` are over; what has no answer then is None, which TRL leaves out of the sum of rewards.
    After a call that had no answer at all the next ones wait a second, until something answers again. A mistake in the
    set-up, such as a guard that does not exist, is raised by the first call; later ones never raise.

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
        self._of_process: _Line[ItemT, ResultT] | None = None

    async def __call__(
        self,
        prompts: Sequence[Completion],
        completions: Sequence[Completion],
        **columns: Any,
    ) -> list[float | None]:
        """Return the reward of each completion.

        Raises:
            ValueError: a column that is needed is not there.
            EvalFleetError: the set-up is why the first call has no answer.
        """
        items = self._items(prompts, completions, columns)
        line = self._line()
        futures = line.gatherer.put([each for each in items if each is not None])
        if futures:
            longest = self._timeout_seconds if line.answers.is_set() else min(_AWAY_SECONDS, self._timeout_seconds)
            await asyncio.wait(futures, timeout=longest)
        outcomes = [_outcome(each) for each in futures]
        self._check(outcomes)
        if outcomes and all(is_missing(each) for each in outcomes):
            line.answers.clear()
        tell = columns.get("log_metric")
        if callable(tell) and outcomes:
            for metric, value in self._counts(outcomes).items():
                tell(f"{self.__name__}/{metric}", value / len(outcomes))
        told = iter(outcomes)
        return [None if each is None else self._reward(next(told)) for each in items]

    def __getstate__(self) -> dict[str, object]:
        """Leave connections behind: another process makes its own."""
        return {**self.__dict__, "_of_process": None}

    @abstractmethod
    def _items(
        self, prompts: Sequence[Completion], completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> list[ItemT | None]:
        """Return what is asked of each completion; None: nothing can be, so it has no reward."""

    @abstractmethod
    def _ask(self, fleet: Fleet, items: list[ItemT], timeout_seconds: float) -> Sequence[ResultT | EvalFleetError]:
        """Ask the fleet for one batch."""

    @abstractmethod
    def _reward(self, outcome: ResultT | EvalFleetError) -> float | None:
        """Turn an answer, or why there is none, into a reward."""

    def _counts(self, outcomes: Sequence[ResultT | EvalFleetError]) -> dict[str, float]:
        """Return what is counted of a call, by the name under which the trainer logs its share."""
        return {"missing": sum(is_missing(each) for each in outcomes)}

    def _line(self) -> _Line[ItemT, ResultT]:
        if self._of_process is None or self._of_process.process != os.getpid():
            gatherer = Gatherer[ItemT, "ResultT | EvalFleetError"](
                self._asked, largest=LARGEST_BATCH, linger_seconds=self._linger_seconds
            )
            self._of_process = _Line(os.getpid(), FleetLender(self._connect), gatherer)
            self._of_process.answers.set()
        return self._of_process

    def _asked(self, items: list[ItemT]) -> Sequence[ResultT | EvalFleetError]:
        """Ask until each item has an answer or the time is up; runs in a thread.

        While the fleet is away, one batch goes on asking on behalf of all: it takes as long as a batch may, so that a
        fleet that is slow is found to answer, and a training that goes on does not heap up threads.
        """
        line = self._line()
        is_probe = not line.answers.is_set() and line.probe.acquire(blocking=False)
        if not is_probe and not line.answers.wait(_AWAY_SECONDS):
            return [_no_answer()] * len(items)
        try:
            return self._until_answered(line, items)
        finally:
            if is_probe:
                line.probe.release()

    def _until_answered(self, line: _Line[ItemT, ResultT], items: list[ItemT]) -> Sequence[ResultT | EvalFleetError]:
        give_up_at = time.monotonic() + self._timeout_seconds
        outcomes: dict[int, ResultT | EvalFleetError] = {}
        wanted = list(range(len(items)))
        while True:
            some = [items[each] for each in wanted]
            answers = self._once(line, some, max(0.1, give_up_at - time.monotonic()))
            if not all(is_missing(each) for each in answers):
                line.answers.set()
            outcomes.update(zip(wanted, answers, strict=True))
            left_seconds = give_up_at - time.monotonic()
            pauses = {each: _pause_seconds(outcomes[each]) for each in wanted if self._may_come(outcomes[each])}
            wanted = [each for each, pause in pauses.items() if pause < left_seconds]
            if not wanted:
                return [outcomes[each] for each in range(len(items))]
            time.sleep(max(pauses[each] for each in wanted))

    def _once(
        self, line: _Line[ItemT, ResultT], items: list[ItemT], timeout_seconds: float
    ) -> Sequence[ResultT | EvalFleetError]:
        try:
            with line.lender.lent() as fleet:
                try:
                    return self._ask(fleet, items, timeout_seconds)
                except EvalFleetError as error:
                    if is_unreachable(error):
                        # It may have been started again elsewhere.
                        line.lender.give_up(fleet)
                    raise
        except EvalFleetError as error:
            return [error] * len(items)

    def _may_come(self, outcome: ResultT | EvalFleetError) -> bool:
        """Whether to ask again: there is no answer yet, and that is not for a mistake that will be raised."""
        return is_missing(outcome) and (self._has_answered or not is_mistake(outcome))

    def _check(self, outcomes: Sequence[ResultT | EvalFleetError]) -> None:
        """Log trouble when it begins and when it ends, and raise what is wrong with the set-up.

        Raises:
            EvalFleetError: nothing has ever been answered, and the set-up is why.
        """
        errors = [each for each in outcomes if isinstance(each, EvalFleetError)]
        if len(errors) == len(outcomes) and not self._has_answered:
            for each in errors:
                if is_mistake(each):
                    raise each
        # One that was refused is an answer too: an empty text says nothing of the set-up.
        self._has_answered |= any(not is_missing(each) for each in outcomes)
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
        return _no_answer()
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, EvalFleetError) else EvalFleetError(f"{type(error).__name__}: {error}")


def _no_answer() -> NoAnswerError:
    return NoAnswerError("the fleet did not answer in time", reason="NO_ANSWER")


def _pause_seconds(outcome: object) -> float:
    """Seconds until an item is asked for again: never before the service wants it, and not in step with other ranks."""
    return max(_RETRY_SECONDS, getattr(outcome, "retry_after_seconds", None) or 0.0) * random.uniform(1.0, 1.2)


def is_mistake(outcome: object) -> bool:
    """Whether the set-up is why there is no answer, as against: the fleet is away, or would not judge this one."""
    if isinstance(outcome, InvalidArgumentError):
        return any(_OF_ALL.search(each.field) for each in outcome.field_violations)
    # What has no class of its own is a bug, here or in what the trainer was given.
    return isinstance(outcome, _MISTAKES) or type(outcome) is EvalFleetError


def is_missing(outcome: object) -> bool:
    """Whether the fleet could not be asked in time, as against: would not judge this one."""
    return isinstance(outcome, Exception) and (isinstance(outcome, NoAnswerError) or is_passing(outcome))
