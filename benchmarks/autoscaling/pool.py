"""A pool of identical replicas with one queue: what is asked, waits, is computed, and what replicas cost meanwhile.

Time goes in steps. In each step every item in service ends with the same probability: service times are geometric, with
the mean that is given, and a pool of fixed size is an M/M/c queue as far as steps are short beside them. The tests hold
it to Erlang's formula.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica is.

    Attributes:
        slots: items that it computes at once.
        service_seconds: mean time of an item.
        load_seconds: from being wanted to being ready: a node, an image, weights.
        drain_seconds: what items in flight get when it goes; those that are left are begun anew elsewhere.
        tokens: of an item.
    """

    slots: int = 64
    service_seconds: float = 20.0
    load_seconds: float = 240.0
    drain_seconds: float = 85.0
    tokens: int = 1000


@dataclass(frozen=True, slots=True)
class Run:
    """So many items from a moment on, of which so many are in flight at once."""

    begins_at: float
    items: int
    concurrency: int


class Pool:
    """The replicas, the queue and the runs; ``step`` lets time pass.

    Args:
        replica: what each is.
        runs: what is evaluated.
        generator: of chance.

    Attributes:
        waits: seconds that an item waited → how many did.
        replica_seconds: of all replicas, those that start or go included.
        begun_again: items that a replica which went had not finished.
        ended_at: of each run, when its last item was computed; None before.
    """

    def __init__(self, replica: Replica, runs: Sequence[Run], generator: np.random.Generator) -> None:
        self.replica = replica
        self.now = 0.0
        self.ready = 0
        self.waits: dict[int, int] = {}
        self.replica_seconds = 0.0
        self.begun_again = 0
        self.completed = 0
        self._generator = generator
        self._runs = runs
        self.ended_at: list[float | None] = [None] * len(runs)
        # The last place is that of items that belong to none of them.
        self._left = np.array([*(run.items for run in runs), 0])
        self._outstanding = np.zeros(len(runs) + 1, dtype=np.int64)
        self._busy = np.zeros(len(runs) + 1, dtype=np.int64)
        self._queue: deque[tuple[float, int, int]] = deque()
        self._starting: deque[tuple[float, int]] = deque()
        self._going = np.zeros(0, dtype=np.int64)
        self._gone_at = np.zeros(0)
        self.queued = 0

    @property
    def wanted(self) -> int:
        """Replicas that are ready or start."""
        return self.ready + sum(count for _, count in self._starting)

    @property
    def running(self) -> int:
        """Items that are computed."""
        return int(self._busy.sum())

    @property
    def demand(self) -> int:
        """Items that are to be in flight."""
        return self.queued + self.running

    @property
    def oldest_wait(self) -> float:
        """Seconds that the item which waits longest has waited."""
        return self.now - self._queue[0][0] if self._queue else 0.0

    @property
    def busy_share(self) -> float:
        """Share of the ready replicas that compute something: what a GPU's utilisation shows."""
        return min(1.0, (self.running - int(self._going.sum())) / self.ready) if self.ready else 0.0

    def waiting(self) -> Sequence[tuple[float, int]]:
        """Since when how many items wait."""
        return [(at, count) for at, _, count in self._queue]

    def resize(self, count: int) -> None:
        """Ask for so many replicas; those that start go first, then those that are ready, once they are drained."""
        more = count - self.wanted
        if more > 0:
            self._starting.append((self.now + self.replica.load_seconds, more))
        while more < 0 and self._starting:
            at, newest = self._starting.pop()
            if newest > -more:
                self._starting.append((at, newest + more))
            more = min(0, more + newest)
        if more < 0:
            here = self.running - int(self._going.sum())
            share = min(self.replica.slots, math.ceil(here / self.ready))
            items = np.minimum(share, np.maximum(0, here - share * np.arange(-more)))
            self._going = np.concatenate((self._going, items))
            self._gone_at = np.concatenate((self._gone_at, np.full(-more, self.now + self.replica.drain_seconds)))
            self.ready += more

    def step(self, seconds: float, arrivals: int = 0) -> None:
        """Let time pass: ``arrivals`` are items beside those of the runs."""
        self._end_items(seconds)
        self._end_replicas()
        while self._starting and self._starting[0][0] <= self.now:
            self.ready += self._starting.popleft()[1]
        self._ask(arrivals)
        self._begin_items()
        self.replica_seconds += seconds * (self.wanted + len(self._going))
        self.now += seconds

    def _end_items(self, seconds: float) -> None:
        going = int(self._going.sum())
        chance = min(1.0, seconds / self.replica.service_seconds)
        ended_going = self._generator.binomial(self._going, chance)
        ended = int(self._generator.binomial(self.running - going, chance)) + int(ended_going.sum())
        self._going = self._going - ended_going
        by_run = self._split(ended)
        self._busy -= by_run
        self._outstanding -= by_run
        self.completed += ended

    def _end_replicas(self) -> None:
        """Those that are drained go; what the others had when their time is up is asked anew."""
        is_over = self._gone_at <= self.now
        lost = int(self._going[is_over].sum())
        if lost:
            by_run = self._split(lost)
            self._busy -= by_run
            for index in np.flatnonzero(by_run):
                self._enqueue(int(index), int(by_run[index]))
            self.begun_again += lost
        stays = ~is_over & (self._going > 0)
        self._going, self._gone_at = self._going[stays], self._gone_at[stays]

    def _split(self, count: int) -> NDArray[np.int64]:
        """Of which runs so many items in service are."""
        if len(self._busy) == 1 or not count:
            return np.array([*[0] * (len(self._busy) - 1), count])
        return self._generator.multivariate_hypergeometric(self._busy, count)

    def _ask(self, arrivals: int) -> None:
        for index, run in enumerate(self._runs):
            if self.ended_at[index] is None and not self._left[index] and not self._outstanding[index]:
                self.ended_at[index] = self.now
            if self._left[index] and run.begins_at <= self.now:
                more = int(min(self._left[index], run.concurrency - self._outstanding[index]))
                if more > 0:
                    self._left[index] -= more
                    self._outstanding[index] += more
                    self._enqueue(index, more)
        if arrivals:
            self._outstanding[-1] += arrivals
            self._enqueue(len(self._runs), arrivals)

    def _enqueue(self, index: int, count: int) -> None:
        self._queue.append((self.now, index, count))
        self.queued += count

    def _begin_items(self) -> None:
        free = self.ready * self.replica.slots - (self.running - int(self._going.sum()))
        while free > 0 and self._queue:
            at, index, count = self._queue.popleft()
            begun = min(free, count)
            if begun < count:
                self._queue.appendleft((at, index, count - begun))
            waited = round(self.now - at)
            self.waits[waited] = self.waits.get(waited, 0) + begun
            self._busy[index] += begun
            self.queued -= begun
            free -= begun
