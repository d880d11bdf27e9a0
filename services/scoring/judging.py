"""Judges the requests of one call: each by itself, each scorer in the way that suits it.

What a pure function judges is judged in a thread: a caller's pattern may take a second, and ``regex`` lets other
threads run meanwhile. Scorers that wait for something wait on the event loop, many at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from services.runtime.errors import CancelledCallError, DeadlineExceededError
from services.runtime.time_limits import batch_seconds
from services.scoring.contract import Output, Score, ScoringItem
from services.scoring.registry import BoundScorer, ScorerReference

RequestT = TypeVar("RequestT")

# A batch is judged in pieces: between two of them a cancelled or expired call ends, and its thread is free again.
_PIECE_REQUESTS: Final = 16
_WAITING_AT_ONCE: Final = 64
"""Requests of one call that scorers wait for at once."""


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


class Judging(Generic[RequestT]):
    """The judging of one call.

    Args:
        read: returns what a request asks for; runs in a thread. What it raises is that request's outcome.
    """

    def __init__(self, read: Callable[[RequestT], Assignment]) -> None:
        self._read = read
        self._room = asyncio.Semaphore(_WAITING_AT_ONCE)

    async def judge(self, request: RequestT) -> Judged:
        """Judge one request.

        Raises:
            Exception: it cannot be judged.
        """
        [outcome] = await self.judge_each([request])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def judge_each(self, requests: Sequence[RequestT]) -> list[Outcome]:
        """Judge each request by itself; one outcome each, in their order.

        What is not done shortly before the call's deadline has DEADLINE_EXCEEDED for its outcome.
        """
        begun: list[Outcome | Assignment] = []
        waits: dict[int, asyncio.Task[Outcome]] = {}
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(requests), _PIECE_REQUESTS):
                begun += await asyncio.to_thread(self._begin_each, requests[start : start + _PIECE_REQUESTS])
                for index in range(start, len(begun)):
                    each = begun[index]
                    if isinstance(each, Assignment):
                        waits[index] = group.create_task(self._wait_for(each))
        return [waits[index].result() if isinstance(each, Assignment) else each for index, each in enumerate(begun)]

    def _begin_each(self, requests: Sequence[RequestT]) -> list[Outcome | Assignment]:
        return [self._begin(request) for request in requests]

    def _begin(self, request: RequestT) -> Outcome | Assignment:
        """Judge a request, or return it read where its scorer waits for something."""
        try:
            assignment = self._read(request)
            bound = assignment.bound
            if bound.is_async:
                return assignment
            return Judged(bound.score(assignment.item, assignment.output), bound.reference)
        except Exception as error:  # noqa: BLE001 - what stops one request, a bug included, leaves the others alone
            return error

    async def _wait_for(self, assignment: Assignment) -> Outcome:
        bound = assignment.bound
        try:
            async with asyncio.timeout(batch_seconds()), self._room:
                return Judged(await bound.score_async(assignment.item, assignment.output), bound.reference)
        except TimeoutError:
            name = bound.scorer.about.name
            return DeadlineExceededError(
                f"{name} had no score when the call's time was nearly up; allow more time or ask for less",
                reason="SCORE_DEADLINE_EXCEEDED",
                metadata={"scorer": name},
            )
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something below was cancelled, not this call: the request still has to have an outcome.
            return CancelledCallError("the work on this request was cancelled", reason="ITEM_CANCELLED")
        except Exception as error:  # noqa: BLE001 - as above
            return error
