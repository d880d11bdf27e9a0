"""What a run may spend holds over replicas, and a block takes its part of it beforehand."""

import asyncio
import dataclasses
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.block_account import BlockAccount
from services.evaluation.runs.blocks import BLOCK_ITEMS
from services.evaluation.runs.budget import Budget, BudgetKeeper, Spend
from services.evaluation.runs.caller_budgets import CallerBudgets, CallerBudgetsSpec
from services.evaluation.runs.gates import GoalWish
from services.evaluation.runs.peers import GeneratedText
from services.evaluation.runs.record import StopReason
from services.runtime.usage import Usage
from tests.unit.evaluation.runs.sharing.blocks.stepped_replicas import (
    CONCURRENCY,
    ITEMS,
    REQUEST,
    SteppedGenerator,
    started,
)
from tests.unit.evaluation.runs.stored_runs import SharedStore
from tests.unit.evaluation.runs.suite_books import Book


@pytest.mark.parametrize("seed", range(4))
async def test_a_budget_holds_over_replicas_as_it_holds_over_one(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng, dearest = Random(seed), 400
    generate = SteppedGenerator.generate

    async def costly(self: SteppedGenerator, model: str, prompt: Any, options: Any) -> Sequence[GeneratedText]:
        (answer,) = await generate(self, model, prompt, options)
        await asyncio.sleep(0.01 * rng.random())
        tokens = rng.randint(1, 20) * (20 if rng.random() < 0.1 else 1)
        return [dataclasses.replace(answer, usage=Usage(computed_completion_tokens=tokens))]

    monkeypatch.setattr(SteppedGenerator, "generate", costly)
    limit = rng.randint(14_000, 18_000)
    request = dataclasses.replace(REQUEST, wish=GoalWish(budget=Budget(tokens=limit)))
    run, owner, helper = await started(store, book, fleet, request=request)
    for each in (owner, helper):
        each.stepped.allow(ITEMS)
    ended = await owner.end_of(run.run_id)
    costs = [row.usage.computed_completion_tokens for row in fleet.ledger.rows.values()]
    assert ended.stop_reason is StopReason.BUDGET_EXHAUSTED
    assert limit - dearest - 50 < sum(costs) <= limit + CONCURRENCY * dearest
    assert ended.spent.tokens == pytest.approx(sum(costs))
    assert helper.stepped.asked
    for each in (owner, helper):
        await each.runs.stop()


async def test_the_day_of_a_caller_holds_over_owner_and_helpers(store: SharedStore, book: Book, fleet: Any) -> None:
    budgets = CallerBudgets(CallerBudgetsSpec.model_validate({"default": {"items": 790}}))
    allowances = Allowances(budgets, AccountStore(store.engine, "owner"))
    await allowances.start()
    request = dataclasses.replace(REQUEST, wish=GoalWish())
    run, owner, helper = await started(store, book, fleet, request=request, allowances=allowances)
    for each in (owner, helper):
        each.stepped.allow(ITEMS)
    ended = await owner.end_of(run.run_id)
    assert ended.stop_reason is StopReason.CALLER_BUDGET_EXHAUSTED
    # Whole blocks as long as they fit, then item by item.
    assert sorted(row.draw_index for row in fleet.ledger.rows.values()) == list(range(790))
    assert len(helper.stepped.asked) >= BLOCK_ITEMS
    for each in (owner, helper):
        await each.runs.stop()
    await allowances.stop()
    today = (await allowances.account("anonymous")).today
    assert (today.spent.items, today.reserved.items) == (790, 0)
    assert today.spent.engine_seconds == sum(row.usage.engine_seconds for row in fleet.ledger.rows.values())


@given(
    st.lists(st.tuples(st.integers(1, 8), st.none() | st.integers(0, 500)), max_size=8), st.booleans(), st.booleans()
)
def test_a_block_leaves_nothing_reserved_however_it_ends(
    parts: list[tuple[int, int | None]], is_cancelled: bool, was_taken: bool
) -> None:
    keeper = BudgetKeeper(Budget(tokens=10**6), spent=Spend(), now=lambda: 0.0)
    keeper.learn("t", Spend(1, 10))
    reserved = keeper.reserve_block("t", BLOCK_ITEMS)
    assert reserved == Spend(BLOCK_ITEMS, 10 * BLOCK_ITEMS)
    account, done, tokens = BlockAccount(keeper, reserved, BLOCK_ITEMS, None), 0, 0
    for count, cost in parts:
        if done + count <= BLOCK_ITEMS:
            account.settle(count, None if cost is None else Spend(count, cost))
            done, tokens = done + count, tokens + (10 * count if cost is None else cost)
    assert account.open_count == BLOCK_ITEMS - done
    if was_taken:
        account.note_taken()
    if is_cancelled:
        account.cancel()
    if is_cancelled and was_taken:
        done, tokens = BLOCK_ITEMS, tokens + 10 * (BLOCK_ITEMS - done)
    else:
        account.give_back()
    assert keeper.spent.items == done
    assert keeper.spent.tokens == pytest.approx(tokens)
    room = 10**6 - round(keeper.spent.tokens)
    assert keeper.reserve_block("t", room // 10 + 1) is None
    assert keeper.reserve_block("t", room // 10 - 1) is not None


def test_no_block_is_made_before_anybody_knows_what_an_item_costs() -> None:
    keeper = BudgetKeeper(Budget(tokens=1000), spent=Spend(), now=lambda: 0.0)
    assert keeper.reserve_block("t", BLOCK_ITEMS) is None
    assert BudgetKeeper(Budget(items=1000), spent=Spend(), now=lambda: 0.0).reserve_block("t", 32) == Spend(32)
    late = BudgetKeeper(Budget(wall_seconds=1.0), spent=Spend(), now=lambda: 2.0)
    assert late.reserve_block("t", BLOCK_ITEMS) is None
