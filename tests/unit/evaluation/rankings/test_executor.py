"""Rankings: the same items for all, none for who is out, within the budget."""

import asyncio
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.rankings.documents import document_of, ranking_of
from services.evaluation.rankings.messages import ranking_message
from services.evaluation.rankings.record import Standing
from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.budget import Budget
from services.evaluation.runs.caller_budgets import CallerBudgets, CallerBudgetsSpec
from services.evaluation.runs.record import RunState, StopReason
from services.evaluation.tasks import Suite
from services.runtime.calls import bind_ids
from services.runtime.errors import (
    ResourceExhaustedError,
    UnavailableError,
)
from tests.patience import until
from tests.unit.evaluation.rankings.desk import ITEMS, MODELS, REQUEST, Choir, Desk, end_of
from tests.unit.evaluation.runs.stored_runs import opened


async def test_losers_get_no_more_items_and_the_best_is_known_early(desk: Desk, choir: Choir) -> None:
    ended = await desk.ended(REQUEST)
    assert (ended.state, ended.stop_reason, ended.is_decided) == (RunState.SUCCEEDED, StopReason.DECIDED, True)
    assert [each.standing for each in ended.contenders] == [Standing.OUT, Standing.TOP, Standing.OUT]
    bad, good, fair = ended.contenders
    assert bad.evaluated_count < fair.evaluated_count <= good.evaluated_count < ITEMS
    assert (ended.item_count, ended.data_digest) == (ITEMS, "rows-1")
    assert ended.start_time is not None
    assert ended.end_time is not None
    for contender in ended.contenders:
        assert len(choir.by_model[contender.model]) >= contender.evaluated_count


async def test_all_models_meet_the_same_items_in_the_same_order_and_none_runs_ahead(desk: Desk) -> None:
    ended = await desk.ended(REQUEST)
    drawings = desk.fleet.ledger.drawings.drawings
    assert len({drawing.order for drawing in drawings.values()}) == 1
    requests = [drawing.request for drawing in drawings.values()]
    assert [each.uses_history for each in requests] == [False] * 3
    assert [each.questions.alpha for each in requests] == pytest.approx([0.05 / 3] * 3)
    counts = [each.evaluated_count for each in ended.contenders]
    # Who was out stays where it was, give or take what was in flight; the other two go on side by side.
    assert abs(counts[1] - counts[2]) <= 6 + 8


async def test_nobody_is_asked_more_than_can_be_judged_soon(desk: Desk, choir: Choir) -> None:
    # The models answer at once; the ledger takes its time.
    desk.fleet.ledger.drawings.batch = ITEMS  # as in an order without history: no draw waits for results
    desk.fleet.ledger.errors += [UnavailableError("busy", reason="BUSY", retry_after_seconds=0.01)] * 10_000
    manager = desk.manager()
    await manager.start()
    ranking = await manager.create(dataclasses.replace(REQUEST, concurrency=200))
    await until(lambda: len(choir.asked) >= 96)
    for _ in range(200):
        await asyncio.sleep(0)
    assert {model: len(texts) for model, texts in choir.by_model.items()} == dict.fromkeys(MODELS, 32)
    desk.fleet.ledger.errors.clear()
    assert (await end_of(manager, ranking.ranking_id)).is_decided
    await manager.stop()


async def test_the_runs_are_in_the_list_of_runs_once_it_has_ended(desk: Desk) -> None:
    ended = await desk.ended(REQUEST)
    runs = [await desk.stores[1].get(each.run_id) for each in ended.contenders]
    assert [run and run.state for run in runs] == [RunState.SUCCEEDED] * 3
    for run, contender in zip(runs, ended.contenders, strict=True):
        assert run is not None
        assert (run.model, run.stop_reason) == (contender.model, StopReason.DECIDED)
        assert run.progress[0].scored_count == contender.scored_count
        assert run.decisions[0].saved_count == ITEMS - contender.evaluated_count
        assert run.goal.draws is False
    assert await desk.stores[1].unfinished() == []


async def test_items_with_several_samples_count_once(desk: Desk, make_task: Any) -> None:
    task = make_task(generation={"sample_count": 3, "temperature": 1.0})
    desk.book.suite = Suite("demo", "a suite", (task,))
    ended = await desk.ended(REQUEST)
    for contender in ended.contenders:
        samples = Counter(item for its_run, _, item, _ in desk.fleet.ledger.rows if its_run == contender.run)
        # Who is put down may be in the middle of an item.
        assert contender.evaluated_count == sum(count == 3 for count in samples.values()) > 0
        run = await desk.stores[1].get(contender.run_id)
        assert run is not None
        assert (run.progress[0].item_count, run.progress[0].scored_count) == (3 * ITEMS, samples.total())
        assert run.decisions[0].saved_count == ITEMS - contender.evaluated_count


async def test_a_budget_ends_it_with_what_it_has_found(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, budget=Budget(items=15)))
    assert (ended.state, ended.stop_reason) == (RunState.SUCCEEDED, StopReason.BUDGET_EXHAUSTED)
    assert not ended.is_decided
    assert len(desk.fleet.ledger.rows) == 15
    assert ended.spent.items == 15
    assert {each.standing for each in ended.contenders} == {Standing.CONTENDING}


async def test_a_budget_counts_what_an_earlier_process_has_spent(desk: Desk) -> None:
    first = desk.manager()
    await first.start()
    ranking = await first.create(dataclasses.replace(REQUEST, concurrency=1, budget=Budget(items=30)))
    await until(lambda: len(desk.fleet.ledger.rows) >= 10)
    await first.stop()
    second = desk.manager()
    await second.start()
    ended = await end_of(second, ranking.ranking_id)
    await second.stop()
    assert len(desk.fleet.ledger.rows) == 30
    assert ended.spent.items == 30


async def test_a_callers_day_counts_rankings_too(desk: Desk, tmp_path: Path) -> None:
    async with opened(tmp_path / "accounts.sqlite") as engine:
        spec = CallerBudgetsSpec.model_validate({"callers": {"team/a": {"items": 20}}})
        desk.allowances = Allowances(CallerBudgets(spec), AccountStore(engine, "me"))
        await desk.allowances.start()
        manager = desk.manager()
        await manager.start()
        with bind_ids(caller="team/a"):
            ended = await end_of(manager, (await manager.create(REQUEST)).ranking_id)
            with pytest.raises(ResourceExhaustedError):
                await manager.create(REQUEST)
        assert (await end_of(manager, (await manager.create(REQUEST)).ranking_id)).is_decided
        await manager.stop()
        await desk.allowances.stop()
    assert (ended.state, ended.stop_reason) == (RunState.SUCCEEDED, StopReason.CALLER_BUDGET_EXHAUSTED)
    assert sum(each.evaluated_count for each in ended.contenders) == 20


async def test_models_that_are_alike_are_asked_everything(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, models=("models/good", "models/fair"), item_limit=20))
    assert (ended.stop_reason, ended.is_decided, ended.item_count) == (StopReason.COMPLETE, False, 20)
    assert [each.evaluated_count for each in ended.contenders] == [20, 20]
    assert desk.judge.asked[-1] == 20


async def test_models_that_are_alike_are_tied_with_a_tolerance(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, models=("models/good", "models/fair"), tolerance=0.05))
    assert (ended.stop_reason, ended.is_decided, ended.tolerance) == (StopReason.DECIDED, True, 0.05)
    assert [each.standing for each in ended.contenders] == [Standing.TOP, Standing.TIED]
    assert all(each.evaluated_count < ITEMS for each in ended.contenders)
    assert ranking_of(document_of(ended)) == ended
    assert ranking_message(ended).tolerance == 0.05
    run = await desk.stores[1].get(ended.contenders[1].run_id)
    assert run is not None
    assert run.stop_reason is StopReason.DECIDED
