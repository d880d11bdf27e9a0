"""Judges requests: each by itself, and each scorer in the way that suits it.

Most scorers are quick and pure: threads run them, many requests a turn, for a caller's pattern may take a second and
``regex`` lets other threads run meanwhile. Heavy ones have processes, which can be killed. Those that wait for
something wait on the event loop, many at once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message as ProtobufMessage

from services.runtime.errors import CancelledCallError
from services.runtime.gathering import Gatherer
from services.runtime.places import Places
from services.runtime.time_limits import batch_seconds
from services.runtime.work import Work
from services.scoring.admission import Admission
from services.scoring.contract import Output, Score, ScoringItem
from services.scoring.errors import ScoreLateError
from services.scoring.pool.pool import ScorerPool
from services.scoring.registry import BoundScorer, ScorerReference

RequestT = TypeVar("RequestT")

_TURN_SECONDS: Final = 0.01
"""After so long a call's thread is for whoever is next; a cancelled or expired call ends there."""
_THREADS: Final = 4
"""Calls that threads judge for at once: more would only take the interpreter from each other."""
_WAITING_AT_ONCE: Final = 64
"""Requests of one call whose outcome others work on at once."""
_LARGEST_GATHERED: Final = 32
"""Requests of a stream that share a turn, and have their outcomes together."""


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

    def work(self) -> Work:
        """Return the requests in hand."""
        return self._admission.work()

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
        left = batch_seconds()
        call = _Call(self._threads, self._pool, read, None if left is None else time.monotonic() + left)
        others: dict[int, asyncio.Task[Outcome]] = {}
        with self._admission.hold(len(requests), sum(map(_sent_bytes, requests))):
            async with asyncio.TaskGroup() as group:
                begun: list[Outcome | Assignment] = []
                async for some in call.begin(requests):
                    for index, each in enumerate(some, start=len(begun)):
                        if isinstance(each, Assignment):
                            others[index] = group.create_task(call.finish(each))
                    begun += some
        return [others[index].result() if isinstance(each, Assignment) else each for index, each in enumerate(begun)]

    @asynccontextmanager
    async def open_stream(
        self, read: Callable[[RequestT], Assignment]
    ) -> AsyncIterator[Callable[[RequestT], Awaitable[Judged]]]:
        """Yield what judges one request of a stream, as ``judge`` does; those that are asked together share turns.

        Whoever asks bounds the time of each request.

        Args:
            read: as in ``judge_each``.
        """
        call = _Call(self._threads, self._pool, read, None)
        gatherer = Gatherer(call.begin_all, largest=_LARGEST_GATHERED, concurrency=_THREADS)

        async def judge(request: RequestT) -> Judged:
            with self._admission.hold(1, _sent_bytes(request)):
                [begun] = await gatherer.ask([request])
                outcome = await call.finish(begun) if isinstance(begun, Assignment) else begun
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        try:
            yield judge
        finally:
            await gatherer.close()


def _sent_bytes(request: object) -> int:
    # One that could not be read is its error.
    return request.ByteSize() if isinstance(request, ProtobufMessage) else 0


class _Call(Generic[RequestT]):
    """The judging of one call or stream.

    Args:
        threads: where quick scorers judge.
        pool: where heavy ones do.
        read: returns what a request asks for.
        ends_at: when the time is up, on the clock of ``time.monotonic``.
    """

    def __init__(
        self,
        threads: Places,
        pool: ScorerPool,
        read: Callable[[RequestT], Assignment],
        ends_at: float | None,
    ) -> None:
        self._threads = threads
        self._pool = pool
        self._read = read
        self._ends_at = ends_at
        self._room = asyncio.Semaphore(_WAITING_AT_ONCE)

    async def begin(self, requests: Sequence[RequestT]) -> AsyncIterator[list[Outcome | Assignment]]:
        """Yield what quick scorers say of each request, and the others read, as many as a turn has time for."""
        first = 0
        while first < len(requests):
            try:
                async with asyncio.timeout(self._left()):
                    some = await self._begin_turn(requests, first)
            except TimeoutError:
                some = [ScoreLateError() for _ in range(first, len(requests))]
            first += len(some)
            yield some

    async def begin_all(self, requests: Sequence[RequestT]) -> list[Outcome | Assignment]:
        """Return what ``begin`` yields."""
        return [each async for some in self.begin(requests) for each in some]

    async def finish(self, assignment: Assignment) -> Outcome:
        """Have a request judged that was only read."""
        bound = assignment.bound
        try:
            async with asyncio.timeout(self._left()), self._room:
                if bound.is_async:
                    score = await bound.score_async(assignment.item, assignment.output)
                else:
                    score = await self._pool.score(bound, assignment.item, assignment.output)
                return Judged(score, bound.reference)
        except TimeoutError:
            return ScoreLateError()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something below was cancelled, not this call: the request still has to have an outcome.
            return CancelledCallError("the work on this request was cancelled", reason="ITEM_CANCELLED")
        except Exception as error:  # noqa: BLE001 - what stops one request, a bug included, leaves the others alone
            return error

    def _left(self) -> float | None:
        return None if self._ends_at is None else self._ends_at - time.monotonic()

    async def _begin_turn(self, requests: Sequence[RequestT], first: int) -> list[Outcome | Assignment]:
        give_back = await self._threads.take()
        # A thread cannot be stopped: its place is free when it ends, not when nobody waits for it any more.
        thread = asyncio.create_task(asyncio.to_thread(self._begin_some, requests, first))
        thread.add_done_callback(lambda _: give_back())
        return await asyncio.shield(thread)

    def _begin_some(self, requests: Sequence[RequestT], first: int) -> list[Outcome | Assignment]:
        ends = time.monotonic() + _TURN_SECONDS
        begun = [self._begin_one(requests[first])]
        for index in range(first + 1, len(requests)):
            if time.monotonic() >= ends:
                break
            begun.append(self._begin_one(requests[index]))
        return begun

    def _begin_one(self, request: RequestT) -> Outcome | Assignment:
        try:
            assignment = self._read(request)
            bound = assignment.bound
            if bound.is_async or bound.is_heavy:
                return assignment
            return Judged(bound.score(assignment.item, assignment.output), bound.reference)
        except Exception as error:  # noqa: BLE001 - as above
            return error
