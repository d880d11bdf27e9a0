"""Company is waited for only where there is some, and never for long."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.gathering import Gatherer
from services.runtime.pacing import Pacer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def busy(pacer: Pacer, clock: Clock, *, count: int, every_seconds: float) -> None:
    for _ in range(20):
        clock.now += every_seconds
        pacer.sent(count)


def test_what_comes_alone_never_waits() -> None:
    clock = Clock()
    pacer = Pacer(0.02, worthwhile=4.0, clock=clock)
    assert pacer.delay_seconds() == 0.0
    busy(pacer, clock, count=1, every_seconds=0.01)
    assert pacer.delay_seconds() == 0.0


def test_in_a_crowd_sendings_are_an_interval_apart() -> None:
    clock = Clock()
    pacer = Pacer(0.02, worthwhile=4.0, clock=clock)
    busy(pacer, clock, count=10, every_seconds=0.01)
    assert pacer.delay_seconds() == 0.02
    clock.now += 0.015
    assert 0.0049 < pacer.delay_seconds() < 0.0051
    clock.now += 1.0
    assert pacer.delay_seconds() == 0.0


def test_when_the_crowd_has_gone_nobody_waits_any_more() -> None:
    clock = Clock()
    pacer = Pacer(0.02, worthwhile=4.0, clock=clock)
    busy(pacer, clock, count=10, every_seconds=0.01)
    busy(pacer, clock, count=1, every_seconds=0.05)
    assert pacer.delay_seconds() == 0.0


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1)), max_size=50))
def test_nothing_waits_longer_than_the_interval(sendings: list[tuple[int, float]]) -> None:
    clock = Clock()
    pacer = Pacer(0.02, clock=clock)
    for count, passed in sendings:
        clock.now += passed
        assert 0.0 <= pacer.delay_seconds() <= 0.02
        pacer.sent(count)


async def test_a_paced_gatherer_sends_fewer_and_fuller_calls_and_loses_nothing() -> None:
    calls: list[int] = []

    async def double(requests: Sequence[int]) -> Sequence[int]:
        calls.append(len(requests))
        return [2 * each for each in requests]

    gatherer = Gatherer(double, largest=64, pacer=Pacer(0.02))

    async def worker(start: int) -> list[int]:
        return [answer for number in range(start, start + 20) for answer in await gatherer.ask([number])]

    answers = await asyncio.gather(*(worker(20 * index) for index in range(16)))
    assert sorted(each for some in answers for each in some) == [2 * number for number in range(320)]
    assert sum(calls) == 320
    assert len(calls) < 60


async def test_a_full_call_is_not_held_back() -> None:
    sent = asyncio.Event()

    async def answer(requests: Sequence[int]) -> Sequence[int]:
        sent.set()
        return requests

    clock = Clock()
    pacer = Pacer(3600.0, worthwhile=1.0, clock=clock)
    busy(pacer, clock, count=1000, every_seconds=0.01)
    gatherer = Gatherer(answer, largest=4, pacer=pacer)
    asked = [asyncio.create_task(gatherer.ask([number])) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not sent.is_set()
    assert await gatherer.ask([3]) == [3]
    await asyncio.gather(*asked)
    await gatherer.close()
