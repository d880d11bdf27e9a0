import asyncio
from contextlib import ExitStack

import pytest

from services.inference import engine_watch
from services.inference.engine_watch import EngineWatch
from tests.patience import LONGEST_WAIT_SECONDS


class FakeCall:
    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    def cancel(self) -> bool:
        self.cancelled.set()
        return True


class Engine:
    """Answers questions; a test decides whether the process lives, and sees the questions."""

    def __init__(self) -> None:
        self.lives = True
        self.asked: list[str] = []
        self.question = asyncio.Event()

    async def is_alive(self, model: str) -> bool:
        self.asked.append(model)
        self.question.set()
        return self.lives


async def test_calls_to_a_dead_engine_are_ended_and_others_left_alone() -> None:
    engine, call, other = Engine(), FakeCall(), FakeCall()
    watch = EngineWatch(engine.is_alive, interval_seconds=0.001)
    with watch.watching("m", call):
        await engine.question.wait()
        assert not call.cancelled.is_set()
        engine.lives = False
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await call.cancelled.wait()
        assert watch.was_ended(call)
        assert not watch.was_ended(other)
    assert not watch.was_ended(call)


async def test_nothing_is_asked_once_nothing_is_in_flight() -> None:
    engine = Engine()
    watch = EngineWatch(engine.is_alive, interval_seconds=0.001)
    first, second = FakeCall(), FakeCall()
    with watch.watching("m", first):
        with watch.watching("m", second):
            await engine.question.wait()
        engine.question.clear()
        await engine.question.wait()
    asked = len(engine.asked)
    await asyncio.sleep(0.02)
    assert len(engine.asked) == asked
    assert len(asyncio.all_tasks()) == 1


async def test_one_question_serves_all_calls_of_a_model() -> None:
    engine = Engine()
    watch = EngineWatch(engine.is_alive, interval_seconds=0.001)
    calls = [FakeCall() for _ in range(5)]
    contexts = [watch.watching("m", call) for call in calls]
    for context in contexts:
        context.__enter__()
    assert len(asyncio.all_tasks()) == 2
    engine.lives = False
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        for call in calls:
            await call.cancelled.wait()
    watch.close()
    for context in contexts:
        context.__exit__(None, None, None)


async def test_a_block_that_fails_is_no_longer_watched() -> None:
    watch = EngineWatch(Engine().is_alive, interval_seconds=60)
    with pytest.raises(ValueError, match="x"), watch.watching("m", FakeCall()):
        raise ValueError("x")
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_reported_death_ends_what_waits_for_that_process_and_not_what_waits_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_watch, "DEATH_SECONDS", 0.05)
    # The model is loaded again before the first question, so nobody would learn of the death by asking.
    watch = EngineWatch(Engine().is_alive, interval_seconds=60)
    witness, second_witness, forgotten, later, other = (FakeCall() for _ in range(5))
    with ExitStack() as stack:
        for call in (second_witness, forgotten):
            stack.enter_context(watch.watching("m", call))
        stack.enter_context(watch.watching("other", other))
        with watch.watching("m", witness):
            watch.report_death("m", witness)
            assert watch.is_bereft(witness)
        stack.enter_context(watch.watching("m", later))
        watch.report_death("m", second_witness)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await forgotten.cancelled.wait()
        assert watch.was_ended(forgotten)
        # Its answer came in time.
        assert not witness.cancelled.is_set()
        # Reported once more after its deadline, the death has still taken nobody else along.
        watch.report_death("m", second_witness)
        await asyncio.sleep(0.1)
        assert not later.cancelled.is_set()
        assert not watch.is_bereft(later)
        assert not other.cancelled.is_set()
    assert not watch.is_bereft(forgotten)
    watch.close()
