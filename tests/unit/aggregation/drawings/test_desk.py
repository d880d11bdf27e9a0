"""Drawings in a ledger: made once, the same for everybody, and none the worse for a restart."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.aggregation.drawings.desk import DrawingDesk
from services.aggregation.drawings.errors import DrawIndexError, DrawingExistsError, LateDrawingError
from services.aggregation.drawings.records import Batch, Draw, Drawing, DrawingSpec, TaskDecision
from services.aggregation.drawings.sql import SqlDrawings
from services.aggregation.ledger import SqlLedger, open_ledger
from services.aggregation.records import Failed, MetricFailure, Result, Scored
from services.aggregation.sequential.questions import DecisionState, GateRule, PrecisionRule
from services.runtime.database import sqlite_url
from services.runtime.errors import NotFoundError

ResultFactory = Callable[..., Result]
SpecFactory = Callable[..., DrawingSpec]
SIZE = 200
IDS = [f"item-{index}" for index in range(SIZE)]
EASE = np.random.default_rng(5).beta(0.4, 0.4, SIZE)


def scores_of(model: int) -> dict[str, float]:
    right = np.random.default_rng(model).uniform(size=SIZE) < EASE
    return dict(zip(IDS, right.astype(float).tolist(), strict=True))


class Fleet:
    """Evaluates drawings with models whose scores are known.

    Args:
        ledger: where results go.
        result: makes them.
    """

    def __init__(self, ledger: SqlLedger, result: ResultFactory) -> None:
        self.ledger = ledger
        self.desk = DrawingDesk(ledger.drawings)
        self._result = result

    async def append(self, run: str, draws: Sequence[Draw], scores: dict[str, float]) -> None:
        await self.ledger.append(
            [
                self._result(
                    each.item_id, run=run, draw_index=each.draw_index, outcome=Scored({"acc": scores[each.item_id]})
                )
                for each in draws
            ]
        )

    async def evaluate(
        self, spec: DrawingSpec, scores: dict[str, float], *, first: int = 0, most: int = SIZE, block: int = 16
    ) -> tuple[list[Draw], TaskDecision]:
        """Draw and append blocks until the questions are decided or ``most`` items are drawn."""
        await self.desk.create(spec, IDS)
        draws: list[Draw] = []
        [decision] = await self.desk.decisions(spec.run, spec.task)
        while not decision.is_decided and first + len(draws) < most:
            drawn = await self.desk.draw(spec.run, spec.task, first + len(draws), block)
            if not drawn.draws:
                break
            draws += drawn.draws
            await self.append(spec.run, drawn.draws, scores)
            [decision] = await self.desk.decisions_of({(spec.run, spec.task)})
        return draws, decision


@pytest.fixture
def fleet(ledger: SqlLedger, result: ResultFactory) -> Fleet:
    return Fleet(ledger, result)


async def test_the_same_again_is_the_same_drawing(fleet: Fleet, spec: SpecFactory) -> None:
    made = await fleet.desk.create(spec(questions=(GateRule(0.5),)), IDS)
    again = await fleet.desk.create(spec(questions=(GateRule(0.5),), previous_run="runs/x"), IDS)
    assert again == made
    assert made.item_ids == tuple(IDS)
    assert made.history_runs == ()


@pytest.mark.parametrize("change", ["questions", "items", "order", "seed"])
async def test_another_drawing_of_the_task_is_refused(fleet: Fleet, spec: SpecFactory, change: str) -> None:
    await fleet.desk.create(spec(), IDS)
    other = {"questions": spec(questions=(GateRule(0.5),)), "seed": spec(seed=8)}.get(change, spec())
    ids = {"items": IDS[1:], "order": IDS[::-1]}.get(change, IDS)
    with pytest.raises(DrawingExistsError) as caught:
        await fleet.desk.create(other, ids)
    assert caught.value.metadata == {"run": "runs/r", "task": "t"}


async def test_one_of_several_that_create_at_once_makes_it(fleet: Fleet, spec: SpecFactory) -> None:
    made = await asyncio.gather(*(fleet.desk.create(spec(), IDS) for _ in range(8)))
    assert all(each == made[0] for each in made)


async def test_an_order_is_not_chosen_after_results(fleet: Fleet, spec: SpecFactory, result: ResultFactory) -> None:
    await fleet.ledger.append([result("item-0")])
    with pytest.raises(LateDrawingError):
        await fleet.desk.create(spec(), IDS)
    await fleet.desk.create(spec(task="u"), IDS)


async def test_what_was_never_drawn_is_not_found(fleet: Fleet, spec: SpecFactory) -> None:
    await fleet.desk.create(spec(task="gsm8k"), IDS)
    with pytest.raises(NotFoundError) as caught:
        await fleet.desk.draw("runs/r", "gsm9k", 0, 1)
    assert (caught.value.reason, caught.value.metadata["nearest"]) == ("DRAWING_NOT_FOUND", "gsm8k")
    with pytest.raises(NotFoundError):
        await fleet.desk.decisions("runs/other", "gsm8k")
    assert await fleet.desk.decisions("runs/other") == []
    assert await fleet.desk.decisions_of({("runs/r", "u"), ("runs/other", "gsm8k")}) == []


async def test_draws_have_no_gap(fleet: Fleet, spec: SpecFactory) -> None:
    await fleet.desk.create(spec(), IDS)
    assert len((await fleet.desk.draw("runs/r", "t", 0, 10)).draws) == 10
    with pytest.raises(DrawIndexError) as caught:
        await fleet.desk.draw("runs/r", "t", 11, 1)
    assert caught.value.metadata["drawn_count"] == "10"
    whole = await fleet.desk.draw("runs/r", "t", 10, 10_000)
    assert (len(whole.draws), whole.is_exhausted, whole.decision.drawn_count) == (SIZE - 10, True, SIZE)
    beyond = await fleet.desk.draw("runs/r", "t", SIZE, 1)
    assert (beyond.draws, beyond.is_exhausted, beyond.awaited_count) == ((), True, None)


async def test_a_restart_in_the_middle_gives_the_same_draws_and_decisions(
    ledger: SqlLedger, result: ResultFactory, spec: SpecFactory, tmp_path: Path
) -> None:
    questions = (GateRule(0.45), PrecisionRule(0.06))
    first = spec(run="runs/first", model_digest="first", questions=(PrecisionRule(0.08),))
    second = spec(run="runs/second", model_digest="second", questions=questions, previous_run="runs/first")
    undisturbed = Fleet(ledger, result)
    await undisturbed.evaluate(first, scores_of(1))
    draws, decision = await undisturbed.evaluate(second, scores_of(2))
    assert decision.is_decided
    async with open_ledger(sqlite_url(tmp_path / "other.sqlite")) as other:
        await Fleet(other, result).evaluate(first, scores_of(1))
        found: list[Draw] = []
        for most in (20, 21, 48, 100, SIZE):
            # A new desk knows nothing but the ledger.
            more, again = await Fleet(other, result).evaluate(second, scores_of(2), first=len(found), most=most)
            found += more
    assert found == draws
    assert again == decision


async def test_two_replicas_draw_and_decide_alike(tmp_path: Path, result: ResultFactory, spec: SpecFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as one, open_ledger(url) as other:
        desks = [DrawingDesk(one.drawings), DrawingDesk(other.drawings)]
        await Fleet(one, result).evaluate(spec(run="runs/old", model_digest="old"), scores_of(1))
        made = await asyncio.gather(*(desk.create(spec(), IDS) for desk in desks))
        assert made[0] == made[1]
        assert made[0].history_runs == ("runs/old",)
        draws: list[Draw] = []
        while len(draws) < SIZE:
            answers = await asyncio.gather(*(desk.draw("runs/r", "t", len(draws), 20) for desk in desks))
            assert answers[0].draws == answers[1].draws
            draws += answers[0].draws
            for replica, part in ((one, answers[0].draws[::2]), (other, answers[0].draws[1::2])):
                await Fleet(replica, result).append("runs/r", part, scores_of(2))
            [[mine], [theirs]] = await asyncio.gather(*(desk.decisions("runs/r") for desk in desks))
            assert mine == theirs
            assert mine.completed_count == len(draws)
    assert sorted(each.item_id for each in draws) == sorted(IDS)


class LosingStore(SqlDrawings):
    """A store in which another replica always writes its batch first."""

    def __init__(self, ledger: SqlLedger, winner: DrawingDesk) -> None:
        super().__init__(ledger._engine)
        self._winner = winner

    async def add_batch(self, drawing: Drawing, batch: Batch, follows: str) -> bool:
        await self._winner.draw("runs/r", "t", batch.first_draw_index, 1)
        return await super().add_batch(drawing, batch, follows)


async def test_who_comes_second_with_a_batch_takes_the_other(fleet: Fleet, spec: SpecFactory) -> None:
    await fleet.evaluate(spec(run="runs/old", model_digest="old"), scores_of(1))
    loser = DrawingDesk(LosingStore(fleet.ledger, fleet.desk))
    await fleet.desk.create(spec(), IDS)
    draws: list[Draw] = []
    while len(draws) < 96:
        drawn = await loser.draw("runs/r", "t", len(draws), 32)
        draws += drawn.draws
        await fleet.append("runs/r", drawn.draws, scores_of(2))
    assert [(await fleet.desk.draw("runs/r", "t", index, 1)).draws[0] for index in range(96)] == draws
    drawing = await fleet.ledger.drawings.find("runs/r", "t")
    assert drawing is not None
    progress = await fleet.ledger.drawings.progress(drawing, 0)
    assert [(each.first_draw_index, each.end) for each in progress.batches] == [(0, 32), (32, 64), (64, 96)]


async def test_history_lowers_the_items_that_an_answer_needs(fleet: Fleet, spec: SpecFactory) -> None:
    question = (PrecisionRule(0.05),)
    scores = scores_of(1)
    for model in (1, 2, 3):
        await fleet.evaluate(spec(run=f"runs/{model}", model_digest=f"{model}"), scores_of(model))
    alone = spec(run="runs/alone", questions=question, uses_history=False)
    helped = spec(run="runs/helped", questions=question, previous_run="runs/1")
    _, with_history = await fleet.evaluate(helped, scores, block=8)
    _, without = await fleet.evaluate(alone, scores, block=8)
    drawing = await fleet.desk.create(helped, IDS)
    assert drawing.history_runs == ("runs/2", "runs/3", "runs/1")
    assert with_history.completed_count < 0.8 * without.completed_count
    truth = sum(scores.values()) / SIZE
    for decision in (without, with_history):
        assert decision.questions[0][1].state is DecisionState.REACHED
        assert decision.lower <= truth <= decision.upper


async def test_history_is_of_the_same_data_and_metric_or_of_runs_that_are_named(
    fleet: Fleet, spec: SpecFactory, result: ResultFactory
) -> None:
    for run, changes in {"runs/data": {"data_digest": "e"}, "runs/metric": {"metric": "f1"}, "runs/empty": {}}.items():
        await fleet.desk.create(spec(run=run, model_digest=run, **changes), IDS)
    await fleet.evaluate(spec(run="runs/data", model_digest="runs/data", data_digest="e"), scores_of(1))
    await fleet.ledger.append([result(item, run="runs/plain") for item in IDS[:50]])
    assert (await fleet.desk.create(spec(run="runs/none"), IDS)).history_runs == ()
    named = spec(run="runs/named", model_digest="n", history_runs=("runs/plain", "runs/missing"))
    assert (await fleet.desk.create(named, IDS)).history_runs == ("runs/plain",)


async def test_a_repeated_run_repeats_its_draws_whatever_came_meanwhile(fleet: Fleet, spec: SpecFactory) -> None:
    await fleet.evaluate(spec(run="runs/old", model_digest="old"), scores_of(1))
    draws, decision = await fleet.evaluate(spec(run="runs/a", questions=(PrecisionRule(0.1),)), scores_of(2))
    await fleet.evaluate(spec(run="runs/newer", model_digest="newer"), scores_of(3))
    drawing = await fleet.desk.create(spec(run="runs/b", questions=(PrecisionRule(0.1),)), IDS)
    assert drawing.history_runs == ("runs/old",)
    again, same = await fleet.evaluate(spec(run="runs/b", questions=(PrecisionRule(0.1),)), scores_of(2))
    assert again == draws
    assert replace(same, spec=decision.spec) == decision


async def test_what_is_used_least_makes_room(ledger: SqlLedger, result: ResultFactory, spec: SpecFactory) -> None:
    fleet = Fleet(ledger, result)
    fleet.desk = DrawingDesk(ledger.drawings, most_items=SIZE)
    for run in ("runs/a", "runs/b", "runs/a", "runs/b"):
        _, decision = await fleet.evaluate(spec(run=run, uses_history=False), scores_of(1))
        assert decision.is_exact
    assert list(fleet.desk._places) == [("runs/b", "t")]


async def test_failures_are_read_as_they_were_told(fleet: Fleet, spec: SpecFactory, result: ResultFactory) -> None:
    await fleet.desk.create(spec(), ["a", "b", "c"])
    await fleet.desk.draw("runs/r", "t", 0, 3)
    outcomes = {"a": Failed("TIMEOUT", "", {"acc": 0.0}), "b": Failed("TIMEOUT"), "c": Scored({"acc": 1.0})}
    await fleet.ledger.append([result(item, outcome=outcome) for item, outcome in outcomes.items()])
    [decision] = await fleet.desk.decisions("runs/r")
    assert (decision.completed_count, decision.unknown_count) == (3, 1)
    assert decision.lower == pytest.approx(1 / 3)
    assert decision.upper == pytest.approx(2 / 3)


async def test_an_item_without_a_verdict_is_open_both_ways(
    fleet: Fleet, spec: SpecFactory, result: ResultFactory
) -> None:
    await fleet.desk.create(spec(), ["a", "b", "c", "d"])
    await fleet.desk.draw("runs/r", "t", 0, 4)
    garbage = MetricFailure(("acc",), "JUDGE_UNPARSABLE")
    slow = MetricFailure(("acc",), "PATTERN_TIMEOUT", "", {"acc": 0.0})
    outcomes = {
        "a": Scored({"f1": 1.0}, failures=(garbage,)),
        "b": Failed("JUDGE_UNPARSABLE", "", {}, (garbage,)),
        "c": Scored({"acc": 1.0}),
        "d": Scored({"f1": 1.0}, failures=(slow,)),
    }
    await fleet.ledger.append([result(item, outcome=outcome) for item, outcome in outcomes.items()])
    [decision] = await fleet.desk.decisions("runs/r")
    assert (decision.completed_count, decision.unknown_count) == (4, 2)
    assert decision.lower == pytest.approx(1 / 4)
    assert decision.upper == pytest.approx(3 / 4)


async def test_results_behind_a_hole_count_once_it_is_filled(
    fleet: Fleet, spec: SpecFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.aggregation.drawings.desk._LOOK_AHEAD", 8)
    await fleet.desk.create(spec(), IDS)
    draws = (await fleet.desk.draw("runs/r", "t", 0, 60)).draws
    await fleet.append("runs/r", draws[1:], scores_of(1))
    [waiting] = await fleet.desk.decisions_of({("runs/r", "t")})
    assert waiting.completed_count == 0
    for desk in (DrawingDesk(fleet.ledger.drawings), fleet.desk):
        [whole] = await desk.decisions("runs/r")
        assert (whole.completed_count, whole.evaluated_count) == (0, 59)
    await fleet.append("runs/r", draws[:1], scores_of(1))
    [counted] = await fleet.desk.decisions_of({("runs/r", "t")})
    assert (counted.completed_count, counted.evaluated_count) == (60, 60)


async def test_many_results_are_read_at_once_after_a_restart(
    fleet: Fleet, spec: SpecFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.aggregation.drawings.desk._MOST_LOOKED_UP", 8)
    draws, decision = await fleet.evaluate(spec(), scores_of(1), most=60)
    assert len(draws) == 64
    assert await DrawingDesk(fleet.ledger.drawings).decisions("runs/r") == [decision]


@asynccontextmanager
async def cancelled_soon(task: "asyncio.Task[object]") -> AsyncIterator[None]:
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    yield


async def test_a_caller_that_leaves_in_the_middle_breaks_nothing(fleet: Fleet, spec: SpecFactory) -> None:
    await fleet.evaluate(spec(run="runs/old", model_digest="old"), scores_of(1))
    await fleet.desk.create(spec(), IDS)
    for _ in range(5):
        async with cancelled_soon(asyncio.create_task(fleet.desk.draw("runs/r", "t", 0, 32))):
            pass
    draws, decision = await fleet.evaluate(spec(), scores_of(2))
    assert decision.is_exact
    assert sorted(each.item_id for each in draws) == sorted(IDS)
