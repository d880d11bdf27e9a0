"""A race is fed by one thread at a time, whoever asks and goes; what broke is made again."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from services.aggregation.drawings.records import DrawingSpec, DrawnScores, TaskDecision
from services.aggregation.rankings import judging
from services.aggregation.rankings.judging import RankingDesk, RankQuestion
from tests.patience import LONGEST_WAIT_SECONDS

SIZE = 400
QUESTION = RankQuestion(("runs/0", "runs/1"), "t", top=1, margin=None, lower_is_better=False, confidence_level=0.95)


class FixedScores:
    """A score source in which one run is right on seven items of ten and the other one on six."""

    async def scores(self, run: str, task: str) -> DrawnScores:
        number = int(run.removeprefix("runs/"))
        values = (np.random.default_rng(number).random(SIZE) < 0.7 - 0.1 * number).astype(float)
        spec = DrawingSpec(run, task, "acc", 7, run, run, "d", uses_history=False)
        decision = TaskDecision(spec, (), False, 0.0, 1.0, None, SIZE, SIZE, SIZE, SIZE, 0, "")
        return DrawnScores(decision, "order", values, values)


class Doorway:
    """Holds ``_advance`` until it may go on, and counts who is inside."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.inside = self.most_inside = 0
        self._advance = judging._advance
        monkeypatch.setattr(judging, "_advance", self)

    def __call__(self, *given: Any, **named: Any) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.entered.set()
        assert self.open.wait(LONGEST_WAIT_SECONDS)
        self._advance(*given, **named)
        self.inside -= 1


async def test_a_caller_that_goes_does_not_let_another_thread_into_its_race(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = await RankingDesk(FixedScores()).judge(QUESTION)
    desk, door = RankingDesk(FixedScores()), Doorway(monkeypatch)
    first = asyncio.create_task(desk.judge(QUESTION))
    await asyncio.to_thread(door.entered.wait, LONGEST_WAIT_SECONDS)
    first.cancel()
    second = asyncio.create_task(desk.judge(QUESTION))
    for _ in range(20):
        await asyncio.sleep(0)
    has_left = first.done()
    door.open.set()
    assert not has_left
    with pytest.raises(asyncio.CancelledError):
        await first
    found = await second
    assert door.most_inside == 1
    assert (found.compared_count, found.is_decided) == (expected.compared_count, expected.is_decided)
    assert [each.decided_after for each in found.runs] == [each.decided_after for each in expected.runs]


async def test_a_race_that_broke_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = await RankingDesk(FixedScores()).judge(QUESTION)
    desk = RankingDesk(FixedScores())
    oriented = judging._oriented
    calls: list[Any] = []

    def breaks_once(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 9:
            raise MemoryError
        return oriented(*given, **named)

    monkeypatch.setattr(judging, "_oriented", breaks_once)
    with pytest.raises(MemoryError):
        await desk.judge(QUESTION)
    assert not desk._races
    found = await desk.judge(QUESTION)
    assert [each.decided_after for each in found.runs] == [each.decided_after for each in expected.runs]
