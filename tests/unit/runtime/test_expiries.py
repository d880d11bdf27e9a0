import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.expiries import Expiries
from tests.patience import until


async def test_what_is_late_is_told_once_and_the_rest_is_left_alone() -> None:
    told: list[str] = []
    two_are_late = asyncio.Event()

    def on_expiry(thing: str) -> None:
        told.append(thing)
        if len(told) == 2:
            two_are_late.set()

    expiries: Expiries[str] = Expiries(on_expiry)
    now = time.monotonic()
    expiries.watch("later", now + 0.02)
    expiries.watch("patient", now + 3600.0)
    expiries.watch("done", now + 0.01)
    expiries.watch("sooner", now + 0.01)
    expiries.forget("done")
    expiries.forget("never watched")
    await two_are_late.wait()
    assert time.monotonic() >= now + 0.019
    assert told == ["sooner", "later"]
    expiries.close()


async def test_those_that_are_late_together_are_told_by_their_deadlines() -> None:
    told: list[str] = []
    expiries: Expiries[str] = Expiries(told.append)
    now = time.monotonic()
    for late in ("third", "first", "second"):
        expiries.watch(late, now - {"first": 3.0, "second": 2.0, "third": 1.0}[late])
    await until(lambda: len(told) == 3)
    assert told == ["first", "second", "third"]


async def test_a_deadline_in_the_past_is_told_but_not_at_once() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    expiries: Expiries[str] = Expiries(told.put_nowait)
    expiries.watch("late", time.monotonic() - 1.0)
    assert told.empty()
    assert await told.get() == "late"


async def test_one_expiry_may_be_the_end_of_another_and_the_beginning_of_a_third() -> None:
    told: list[str] = []
    third = asyncio.Event()

    def on_expiry(thing: str) -> None:
        told.append(thing)
        if thing == "third":
            third.set()
            return
        expiries.forget("first" if thing == "second" else "second")
        expiries.watch("third", time.monotonic())

    expiries: Expiries[str] = Expiries(on_expiry)
    now = time.monotonic()
    expiries.watch("first", now)
    expiries.watch("second", now)
    await third.wait()
    assert told in (["first", "third"], ["second", "third"])


async def test_after_closing_nothing_is_told_and_no_timer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def noted(*arguments: object, **options: object) -> asyncio.TimerHandle:
        timers.append(call_at(*arguments, **options))  # type: ignore[arg-type]
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", noted)
    expiries: Expiries[str] = Expiries(lambda thing: pytest.fail(thing))
    for number in range(1000):
        expiries.watch(str(number), time.monotonic() + 0.005)
    expiries.close()
    assert [timer.cancelled() for timer in timers] == [True]
    # It can be used again, e.g. by the next stream.
    expiries.watch("again", time.monotonic() + 3600.0)
    assert len(timers) == 2
    expiries.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.booleans()), max_size=30))
async def test_exactly_what_is_watched_longer_than_its_time_is_told(things: list[tuple[int, int, bool]]) -> None:
    told: list[tuple[int, int]] = []
    expiries: Expiries[tuple[int, int]] = Expiries(told.append)
    now = time.monotonic()
    wanted: set[tuple[int, int]] = set()
    for number, milliseconds, is_forgotten in things:
        thing = (number, milliseconds)
        expiries.watch(thing, now + milliseconds / 1000)
        wanted.add(thing)
        if is_forgotten:
            expiries.forget(thing)
            wanted.discard(thing)
    # Told after all others, so that what was told too much is seen as well.
    last = (-1, 100)
    expiries.watch(last, now + 0.02)
    await until(lambda: last in told)
    assert sorted(told) == sorted([*wanted, last])
    expiries.close()


def test_deadlines_hold_on_a_loop_with_a_clock_of_its_own() -> None:
    async def late_by() -> float:
        told: asyncio.Queue[str] = asyncio.Queue()
        expiries: Expiries[str] = Expiries(told.put_nowait)
        deadline = time.monotonic() + 0.05
        expiries.watch("late", deadline)
        assert await told.get() == "late"
        return time.monotonic() - deadline

    class Ahead(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return super().time() + 1000.0

    with asyncio.Runner(loop_factory=Ahead) as runner:
        assert runner.run(late_by()) >= -0.002
