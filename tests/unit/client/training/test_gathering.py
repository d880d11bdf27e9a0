"""Questions of several coroutines in few calls."""

import asyncio
import threading

import pytest
from evalfleet.training.gathering import Gatherer


class Doubling:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.go.wait(60)
        self.batches.append(items)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * each for each in items]


async def test_what_is_asked_at_the_same_time_is_one_batch() -> None:
    ask = Doubling()
    gatherer = Gatherer(ask, largest=100, linger_seconds=0.01)

    async def call(*items: int) -> list[int]:
        return list(await asyncio.gather(*gatherer.put(items)))

    assert list(await asyncio.gather(call(1, 2), call(3), call())) == [[2, 4], [6], []]
    assert ask.batches == [[1, 2, 3]]
    assert await call(4) == [8]


async def test_a_full_batch_is_sent_at_once_and_the_rest_follows() -> None:
    ask = Doubling()
    gatherer = Gatherer(ask, largest=2, linger_seconds=0.01)
    assert await asyncio.gather(*gatherer.put(range(5))) == [0, 2, 4, 6, 8]
    assert sorted(ask.batches) == [[0, 1], [2, 3], [4]]


async def test_an_error_is_that_of_its_batch_alone() -> None:
    gatherer = Gatherer(Doubling(), largest=1, linger_seconds=0)
    good, bad = gatherer.put([1, -1])
    assert await good == 2
    with pytest.raises(ValueError, match="minus one"):
        await bad


async def test_what_nobody_waits_for_any_more_is_not_asked() -> None:
    ask = Doubling()
    gatherer = Gatherer(ask, largest=100, linger_seconds=0.01)
    kept, dropped = gatherer.put([1, 2])
    dropped.cancel()
    assert await kept == 2
    assert ask.batches == [[1]]


def test_every_event_loop_has_batches_of_its_own() -> None:
    ask = Doubling()
    gatherer = Gatherer(ask, largest=100, linger_seconds=0.01)

    async def call(item: int) -> int:
        return await gatherer.put([item])[0]

    assert asyncio.run(call(1)) == 2
    assert asyncio.run(call(2)) == 4
