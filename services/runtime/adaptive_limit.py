"""How many calls a peer is given at once: more while it answers as fast as ever, fewer when it pushes back."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc

from services.runtime.errors import FleetError

ResultT = TypeVar("ResultT")

_PUSHBACK: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})
_LEAST_SAMPLES: Final = 10
_TOLERANCE: Final = 1.5
"""Answers may take so many times as long as they usually do before the limit stops growing."""
_AFTER_PUSHBACK: Final = 0.7
_FASTER: Final = 0.5
_SLOWER: Final = 0.01
"""How far one round moves what is usual: fast towards shorter times, so that queues do not become the custom."""


class AdaptiveLimit:
    """Bounds the calls in flight to one peer; a further call waits its turn, first come, first served.

    A round is as many answers as the limit. A round that used at least half of the limit, and whose answers took about
    as long as usual, raises the limit by its square root; slower ones leave it where it is, for answers also take
    longer when longer ones are asked for (delay as the sign of a queue: TCP Vegas, Brakmo and Peterson, IEEE JSAC
    13(8), 1995; steps of the square root as in Netflix's concurrency-limits). When the peer is unavailable or says that
    it has enough, the limit falls to seven tenths, once for all calls that were under way by then. A repeated call
    takes its turn like a first one: a peer that is away is met by one probe at a time in the end, however many calls
    would like to be repeated.

    Args:
        first: the limit to begin with.
        largest: it never becomes more than that, nor less than 1.
        clock: tells seconds.
        told: hears the status code that each call ended with.
    """

    def __init__(
        self,
        *,
        first: int = 256,
        largest: int = 1024,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[grpc.StatusCode], None] = lambda code: None,
    ) -> None:
        if not 1 <= first <= largest:
            raise ValueError("1 <= first <= largest must hold")
        self._limit = float(first)
        self._largest = float(largest)
        self._clock = clock
        self._told = told
        self._in_flight = 0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._fell_at = -math.inf
        self._usual: float | None = None
        self._seconds = 0.0
        self._answers = 0
        self._most_in_flight = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Calls that are in flight."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._waiting)

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the call has waited whose turn is next; 0 if none waits. Any thread may ask."""
        try:
            _, since = self._waiting[0]
        except IndexError:
            return 0.0
        return self._clock() - since

    async def run(self, call: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Make a call when its turn comes.

        Raises:
            FleetError: the call's.
        """
        await self._enter()
        began = self._clock()
        try:
            result = await call()
        except FleetError as error:
            self._told(error.code)
            if error.code in _PUSHBACK:
                self._fall(began)
            raise
        else:
            self._told(grpc.StatusCode.OK)
            self._answered(self._clock() - began)
            return result
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._in_flight < self.limit and not self._waiting:
            self._took_place()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, self._clock()))
        try:
            await turn
        except asyncio.CancelledError:
            # The place may have been given in the very moment in which its taker was cancelled.
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def _took_place(self) -> None:
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)

    def _leave(self) -> None:
        self._in_flight -= 1
        while self._waiting and self._in_flight < self.limit:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                self._took_place()
                turn.set_result(None)

    def _begin_round(self) -> None:
        self._seconds = 0.0
        self._answers = 0
        self._most_in_flight = self._in_flight

    def _answered(self, seconds: float) -> None:
        self._seconds += seconds
        self._answers += 1
        if self._answers < max(_LEAST_SAMPLES, self._limit):
            return
        recent = self._seconds / self._answers
        was_used = 2 * self._most_in_flight >= self._limit
        self._begin_round()
        if self._usual is None:
            self._usual = recent
        self._usual += (_FASTER if recent < self._usual else _SLOWER) * (recent - self._usual)
        if was_used and recent <= _TOLERANCE * self._usual:
            self._limit = min(self._largest, self._limit + math.sqrt(self._limit))

    def _fall(self, began: float) -> None:
        if began > self._fell_at:
            self._fell_at = self._clock()
            self._limit = max(1.0, self._limit * _AFTER_PUSHBACK)
            self._begin_round()
