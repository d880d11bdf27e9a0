"""Runs of a caller with a daily budget end when it is used up, with what they have found."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.caller_budgets import CallerBudgets, CallerBudgetsSpec
from services.evaluation.runs.executor import RunExecutor
from services.evaluation.runs.gates import Goal
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.peers import GeneratedText
from services.evaluation.runs.record import Run, RunRequest, RunState, StopReason
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.task_items import TaskItems
from services.evaluation.tasks import Suite
from services.runtime.calls import bind_ids
from services.runtime.errors import ResourceExhaustedError
from services.runtime.usage import Usage
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.evaluation.runs.stored_runs import opened
from tests.unit.evaluation.runs.suite_books import Book, ListedItems

RUN = Run(
    "r", "demo", "sd", "models/tiny", "digest-1", seed=1, concurrency=8, create_time=1.0, caller="team/a",
    goal=Goal(has_caller_budget=True),
)  # fmt: skip


@pytest.fixture
async def accounts(tmp_path: Path, store: RunStore) -> AsyncIterator[AccountStore]:
    async with opened(tmp_path / "runs.sqlite") as engine:
        yield AccountStore(engine, "me")


def allowances(accounts: AccountStore, **limits: float) -> Allowances:
    return Allowances(CallerBudgets(CallerBudgetsSpec.model_validate({"callers": {"team/*": limits}})), accounts)


async def execute(fleet: Any, run: Run, task: TaskItems, purse: Allowances) -> Run:
    assert run.caller is not None
    allowance = purse.of(run.caller)
    job = RunExecutor(run, fleet.peers, on_change=lambda _: None, patience_seconds=60.0, allowance=allowance)
    job.begin([task])
    await job.execute()
    await allowance.flush()
    return job.run


async def test_two_runs_of_a_caller_share_its_day_and_end_with_what_they_found(
    fleet: Any, make_task: Any, make_item: Any, accounts: AccountStore
) -> None:
    items = [make_item(f"shout {index}") for index in range(200)]
    task = TaskItems(make_task(), items, "rows-1", ListedItems(items))
    purse = allowances(accounts, items=100)
    runs = [dataclasses.replace(RUN, run_id=run_id) for run_id in ("one", "two")]
    ended = await asyncio.gather(*(execute(fleet, run, task, purse) for run in runs))

    assert [run.stop_reason for run in ended] == [StopReason.CALLER_BUDGET_EXHAUSTED] * 2
    assert len(fleet.ledger.rows) == sum(run.spent.items for run in ended) == 100
    account = await accounts.read("team/a")
    assert (account.spent.items, account.reserved.items) == (100, 0)
    for run in ended:
        (decision,) = run.decisions
        assert 0 < decision.completed_count < 100
        assert decision.lower <= 1 <= decision.upper


async def test_until_the_cost_of_an_item_is_known_one_of_each_run_is_in_flight(
    fleet: Any, make_task: Any, make_item: Any, accounts: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def generate(model: str, prompt: Any, options: Any) -> list[GeneratedText]:
        await asyncio.sleep(0)
        usage = Usage(computed_completion_tokens=60)
        return [GeneratedText(prompt.text.upper(), usage, "digest-1", truncated=False)]

    monkeypatch.setattr(fleet.generator, "generate", generate)
    items = [make_item(f"shout {index}") for index in range(50)]
    task = TaskItems(make_task(), items, "rows-1", ListedItems(items))
    ended = await execute(fleet, RUN, task, allowances(accounts, tokens=50))
    assert ended.spent.tokens == 60
    assert ended.stop_reason is StopReason.CALLER_BUDGET_EXHAUSTED


async def test_a_callers_day_counts_what_guards_cost(
    fleet: Any, make_task: Any, make_item: Any, accounts: AccountStore
) -> None:
    fleet.safety.cost = Usage(prompt_tokens=10, computed_prompt_tokens=10)
    items = [make_item(f"shout {index}") for index in range(50)]
    task = TaskItems(make_task(safety={"aspect": "response"}), items, "rows-1", ListedItems(items))
    ended = await execute(fleet, RUN, task, allowances(accounts, tokens=200))
    assert (ended.spent.items, ended.spent.tokens) == (20, 200)
    assert ended.stop_reason is StopReason.CALLER_BUDGET_EXHAUSTED
    assert (await accounts.read("team/a")).spent.tokens == 200


async def test_the_service_counts_limited_callers_and_refuses_their_next_run(
    fleet: Any, make_task: Any, make_item: Any, store: RunStore, accounts: AccountStore
) -> None:
    book = Book(
        Suite("demo", "a suite", (make_task(),)), [make_item(f"shout {index}") for index in range(20)], can_draw=True
    )
    purse = allowances(accounts, items=25)
    runs = RunManager(
        store, book, fleet.peers, parallel_runs=2, default_concurrency=4, patience_seconds=5.0, allowances=purse
    )
    await runs.start()
    reasons = []
    with bind_ids(caller="team/a"):
        for _ in range(2):
            created = await runs.create(RunRequest("demo", "models/tiny"))
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                last = [run async for run in runs.watch(created.run_id)][-1]
            assert last.state is RunState.SUCCEEDED
            reasons.append(last.stop_reason)
        with pytest.raises(ResourceExhaustedError, match="team/a"):
            await runs.create(RunRequest("demo", "models/tiny"))
    with bind_ids(caller="somebody"):
        other = await runs.create(RunRequest("demo", "models/tiny"))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        last = [run async for run in runs.watch(other.run_id)][-1]
    await runs.stop()
    assert reasons == [StopReason.COMPLETE, StopReason.CALLER_BUDGET_EXHAUSTED]
    assert (last.goal.has_caller_budget, last.stop_reason) == (False, StopReason.COMPLETE)
