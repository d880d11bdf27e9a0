"""Judges requests: each by itself, and each scorer in the way that suits it.

Most scorers are quick and pure: threads run them, many requests a turn, for a caller's pattern may take a second and
``regex`` lets other threads run meanwhile. Heavy ones have processes, which can be killed. Those that wait for
something wait on the event loop, many at once.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from services.runtime.errors import CancelledCallError, DeadlineExceededError
from services.runtime.time_limits import batch_seconds
from services.scoring.admission import Admission
from services.scoring.contract import Output, Score, ScoringItem
from services.scoring.places import Places
from services.scoring.pool.pool import ScorerPool
from services.scoring.registry import BoundScorer, ScorerReference

RequestT = TypeVar("RequestT")

_TURN_SECONDS: Final = 0.01
"""After so long a call's thread is for whoever is next; a cancelled or expired call ends there."""
_THREADS: Final = 4
"""Calls that threads judge for at once: more would only take the interpreter from each other."""
_WAITING_AT_ONCE: Final = 64
"""Requests of one call whose outcome others work on at once."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is judged, and who judges it."""

    bound: BoundScorer
    item: ScoringItem
    output: Output


@dataclass(frozen=True, slots=True)
class Judged:
    """A score, and which exact scorer gave it."""

    score: Score
    reference: ScorerReference


Outcome: TypeAlias = Judged | Exception


class Judging:
    """Judges the requests of all calls, in turns that are fair between callers.

    Args:
        pool: judges with heavy scorers.
        admission: how many requests are in hand.
    """

    def __init__(self, pool: ScorerPool, admission: Admission) -> None:
        self._pool = pool
        self._admission = admission
        self._threads = Places(_THREADS)

    async def judge(self, request: RequestT, read: Callable[[RequestT], Assignment]) -> Judged:
        """Judge one request; see ``judge_each``.

        Raises:
            Exception: it cannot be judged.
        """
        [outcome] = await self.judge_each([request], read)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def judge_each(self, requests: Sequence[RequestT], read: Callable[[RequestT], Assignment]) -> list[Outcome]:
        """Judge each request of a call by itself; one outcome each, in their order.

        What is not done shortly before the call's deadline has DEADLINE_EXCEEDED for its outcome.

        Args:
            requests: what is asked.
            read: returns what one asks for; runs in a thread. What it raises is that request's outcome.

        Raises:
            ResourceExhaustedError: TOO_MANY_REQUESTS, with the time to come back.
        """
        with self._admission.hold(len(requests)):
            return await _Call(self._threads, self._pool, read).judge_each(requests)


class _Call(Generic[RequestT]):
    """The judging of one call."""

    def __init__(self, threads: Places, pool: ScorerPool, read: Callable[[RequestT], Assignment]) -> None:
        self._threads = threads
        self._pool = pool
        self._read = read
        self._room = asyncio.Semaphore(_WAITING_AT_ONCE)
        left = batch_seconds()
        self._ends_at = None if left is None else asyncio.get_running_loop().time() + left

    async def judge_each(self, requests: Sequence[RequestT]) -> list[Outcome]:
        begun: list[Outcome | Assignment] = []
        others: dict[int, asyncio.Task[Outcome]] = {}
        async with asyncio.TaskGroup() as group:
            while len(begun) < len(requests):
                first = len(begun)
                begun += await self._take_turn(requests, first)
                for index in range(first, len(begun)):
                    each = begun[index]
                    if isinstance(each, Assignment):
                        others[index] = group.create_task(self._have_judged(each))
        return [others[index].result() if isinstance(each, Assignment) else each for index, each in enumerate(begun)]

    async def _take_turn(self, requests: Sequence[RequestT], first: int) -> list[Outcome | Assignment]:
        """Begin some requests, as many as a turn has time for; all that are left if there is no time any more."""
        try:
            async with asyncio.timeout_at(self._ends_at), self._threads.place():
                return await asyncio.to_thread(self._begin_some, requests, first)
        except TimeoutError:
            return [_late() for _ in range(first, len(requests))]

    def _begin_some(self, requests: Sequence[RequestT], first: int) -> list[Outcome | Assignment]:
        ends = time.monotonic() + _TURN_SECONDS
        begun = [self._begin(requests[first])]
        for index in range(first + 1, len(requests)):
            if time.monotonic() >= ends:
                break
            begun.append(self._begin(requests[index]))
        return begun

    def _begin(self, request: RequestT) -> Outcome | Assignment:
        """Judge a request, or return it read where its scorer does not judge in a thread."""
        try:
            assignment = self._read(request)
            bound = assignment.bound
            if bound.is_async or bound.is_heavy:
                return assignment
            return Judged(bound.score(assignment.item, assignment.output), bound.reference)
        except Exception as error:  # noqa: BLE001 - what stops one request, a bug included, leaves the others alone
            return error

    async def _have_judged(self, assignment: Assignment) -> Outcome:
        bound = assignment.bound
        try:
            async with asyncio.timeout_at(self._ends_at), self._room:
                if bound.is_async:
                    score = await bound.score_async(assignment.item, assignment.output)
                else:
                    score = await self._pool.score(bound, assignment.item, assignment.output)
                return Judged(score, bound.reference)
        except TimeoutError:
            return _late()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something below was cancelled, not this call: the request still has to have an outcome.
            return CancelledCallError("the work on this request was cancelled", reason="ITEM_CANCELLED")
        except Exception as error:  # noqa: BLE001 - as above
            return error


def _late() -> DeadlineExceededError:
    return DeadlineExceededError(
        "there was no score yet when the call's time was nearly up; allow more time or ask for less",
        reason="SCORE_DEADLINE_EXCEEDED",
    )
