"""Runs with questions: they stop when these are decided, go on where they were, and respect their budget."""

import asyncio
import dataclasses
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from services.evaluation.items import Item
from services.evaluation.runs.budget import Budget
from services.evaluation.runs.decisions import Answer
from services.evaluation.runs.executor import RunExecutor
from services.evaluation.runs.gates import Goal, parsed_gate
from services.evaluation.runs.peers import GeneratedText
from services.evaluation.runs.record import Run, RunState, StopReason
from services.evaluation.runs.task_items import TaskItems
from services.runtime.errors import InvalidArgumentError, UnavailableError
from services.runtime.usage import Usage
from tests.unit.evaluation.runs.suite_books import ListedItems, some_items

RUN = Run("r", "demo", "sd", "models/tiny", "digest-1", seed=1, concurrency=8, create_time=1.0)


def gated(*gates: str, **changes: Any) -> Run:
    filled = tuple(dataclasses.replace(parsed_gate(text), metric="exact_match") for text in gates)
    return dataclasses.replace(RUN, goal=Goal(gates=filled, **changes))


def drawn(task: Any, items: Sequence[Item]) -> TaskItems:
    return TaskItems(task, items, "rows-1", ListedItems(items))


async def rows_in(ledger: Any, count: int, working: "asyncio.Task[None]") -> None:
    """Let ``working`` go on until the ledger has so many rows."""
    for _ in range(100_000):
        if len(ledger.rows) >= count or working.done():
            return
        await asyncio.sleep(0)


async def execute(fleet: Any, run: Run, *tasks: TaskItems, changes: list[Run] | None = None) -> RunExecutor:
    job = RunExecutor(
        run, fleet.peers, on_change=(changes if changes is not None else []).append, patience_seconds=60.0
    )
    job.begin(tasks)
    await job.execute()
    return job


async def test_a_run_stops_once_its_gate_is_decided_and_says_what_it_saved(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    items = some_items(make_item, 1000, right=0.9)
    changes: list[Run] = []
    job = await execute(fleet, gated("shout>=0.3"), drawn(make_task(), items), changes=changes)

    (decision,) = job.run.decisions
    assert [each.answer for each in decision.questions] == [Answer.PASSED]
    assert job.run.stop_reason is StopReason.DECIDED
    # 300 right ones decide; nine of ten are right.
    assert 300 <= decision.completed_count <= 360
    assert decision.saved_count == 1000 - decision.drawn_count > 600
    assert len(fleet.ledger.rows) <= decision.completed_count + 2 * 32
    assert job.run.progress[0].item_count == 1000
    assert job.run.progress[0].scored_count == len(fleet.ledger.rows)
    assert any(change.decisions and not change.decisions[0].is_decided for change in changes)


async def test_a_gate_that_fails_is_decided_too(fleet: Any, make_task: Any, make_item: Any) -> None:
    job = await execute(fleet, gated("shout>=0.9"), drawn(make_task(), some_items(make_item, 500, right=0.2)))
    (decision,) = job.run.decisions
    assert decision.has_failed
    assert job.run.stop_reason is StopReason.DECIDED
    assert decision.saved_count > 300


async def test_what_is_in_flight_is_cancelled_when_the_question_is_decided(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = asyncio.Event()
    cancelled: list[str] = []
    generate = fleet.generator.generate
    order = list(range(400))
    Random(RUN.seed).shuffle(order)
    # Drawn after enough to decide: a quarter of all items.
    late = {f"shout {position}" for position in order[100:]}

    async def slow(model: str, prompt: Any, options: Any) -> Any:
        if prompt.text in late:
            try:
                await stuck.wait()
            except asyncio.CancelledError:
                cancelled.append(prompt.text)
                raise
        return await generate(model, prompt, options)

    monkeypatch.setattr(fleet.generator, "generate", slow)
    job = await execute(fleet, gated("shout>=0.25"), drawn(make_task(), some_items(make_item, 400, right=1.0)))
    assert job.run.decisions[0].questions[0].answer is Answer.PASSED
    assert cancelled
    assert not late.intersection(key[2] for key in fleet.ledger.rows)


async def test_no_more_is_asked_while_the_ledger_has_not_said_what_it_decided(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    held, is_held = asyncio.Event(), asyncio.Event()
    generate, append = fleet.generator.generate, fleet.ledger.append

    async def counted(model: str, prompt: Any, options: Any) -> Any:
        asked.append(prompt.text)
        return await generate(model, prompt, options)

    async def slow(run: str, outcomes: Sequence[Any]) -> Any:
        if fleet.ledger.rows:
            is_held.set()
            await held.wait()
        return await append(run, outcomes)

    monkeypatch.setattr(fleet.generator, "generate", counted)
    monkeypatch.setattr(fleet.ledger, "append", slow)
    fleet.ledger.drawings.batch = 1000
    wanted = dataclasses.replace(gated("shout>=0.3"), concurrency=64)
    working = asyncio.create_task(execute(fleet, wanted, drawn(make_task(), some_items(make_item, 1000, right=0.9))))
    await is_held.wait()
    for _ in range(2_000):
        await asyncio.sleep(0)
    assert len(asked) == len(fleet.ledger.rows) + 32
    held.set()
    assert (await working).run.stop_reason is StopReason.DECIDED


async def test_every_item_is_asked_where_the_gate_is_close(fleet: Any, make_task: Any, make_item: Any) -> None:
    job = await execute(fleet, gated("shout>=0.5"), drawn(make_task(), some_items(make_item, 200, right=0.5)))
    assert job.run.stop_reason in (StopReason.COMPLETE, StopReason.DECIDED)
    assert job.run.decisions[0].questions[0].answer is Answer.PASSED
    assert len({key[2] for key in fleet.ledger.rows}) >= 190


async def test_a_task_without_a_gate_is_run_in_full_beside_one_that_has_one(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    easy, other = some_items(make_item, 300, 1.0), some_items(make_item, 40, 0.5, task="whisper")
    job = await execute(fleet, gated("shout>=0.2"), drawn(make_task(), easy), drawn(make_task("whisper"), other))
    assert sum(key[1] == "whisper" for key in fleet.ledger.rows) == 40
    assert [each.task for each in job.run.decisions] == ["shout"]
    assert job.run.stop_reason is StopReason.DECIDED


async def test_several_tasks_take_turns_and_the_first_failure_ends_all(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    good, bad = some_items(make_item, 2000, 0.6), some_items(make_item, 2000, 0.0, task="whisper")
    run = gated("shout>=0.5", "whisper>=0.9", stops_at_failure=True)
    job = await execute(fleet, run, drawn(make_task(), good), drawn(make_task("whisper"), bad))
    assert job.run.stop_reason is StopReason.GATE_FAILED
    begun = {task: sum(key[1] == task for key in fleet.ledger.rows) for task in ("shout", "whisper")}
    assert 200 <= begun["whisper"] <= 300
    assert begun["shout"] <= begun["whisper"] + 64


async def test_a_resumed_run_goes_on_with_its_draws_and_decides_the_same(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    items = some_items(make_item, 1000, right=0.7)
    whole = type(fleet)()
    undisturbed = await execute(whole, gated("shout>=0.4"), drawn(make_task(), items))

    asked_before = 0
    for _ in range(5):
        job = RunExecutor(gated("shout>=0.4"), fleet.peers, on_change=lambda _: None, patience_seconds=60.0)
        job.begin([drawn(make_task(), items)])
        working = asyncio.create_task(job.execute())
        await rows_in(fleet.ledger, asked_before + 60, working)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        asked_before = len(fleet.ledger.rows)
    job = await execute(fleet, gated("shout>=0.4"), drawn(make_task(), items))

    first, second = undisturbed.run.decisions[0], job.run.decisions[0]
    assert (first.questions[0].answer, second.questions[0].answer) == (Answer.PASSED, Answer.PASSED)
    by_draw = {row.draw_index: row.item for row in fleet.ledger.rows.values()}
    assert all(by_draw.get(row.draw_index, row.item) == row.item for row in whole.ledger.rows.values())
    assert set(range(second.completed_count)) <= set(by_draw)


async def test_an_item_that_the_ledger_refuses_does_not_stop_the_draws(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    poison = InvalidArgumentError("text has a NUL")
    fleet.ledger.refuses = lambda outcome: poison if outcome.prompt == "shout 7" else None
    fleet.ledger.errors = [UnavailableError("away", retry_after_seconds=0.0)] * 3
    task = make_task()
    job = await execute(fleet, gated("shout>=0.9"), drawn(task, some_items(make_item, 60, right=0.3)))
    assert job.run.state is RunState.RUNNING
    assert job.run.decisions[0].has_failed


async def test_a_run_whose_items_are_used_up_stops_without_a_decision(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    run = dataclasses.replace(RUN, goal=Goal(budget=Budget(items=50)))
    job = await execute(fleet, run, drawn(make_task(), some_items(make_item, 40, right=0.6)))
    assert job.run.stop_reason is StopReason.COMPLETE
    assert len(fleet.ledger.rows) == 40


async def test_a_budget_of_items_is_kept_exactly_and_leaves_an_estimate(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    run = gated("shout>=0.5", budget=Budget(items=100))
    job = await execute(fleet, run, drawn(make_task(), some_items(make_item, 1000, right=0.5)))
    (decision,) = job.run.decisions
    assert job.run.stop_reason is StopReason.BUDGET_EXHAUSTED
    assert (len(fleet.ledger.rows), decision.completed_count, job.run.spent.items) == (100, 100, 100)
    assert decision.questions[0].answer is Answer.UNDECIDED
    assert decision.value is not None
    assert decision.lower < decision.value < decision.upper


@pytest.mark.parametrize(
    ("budget", "cost"),
    [
        (Budget(tokens=1000), Usage(prompt_tokens=10, computed_prompt_tokens=10)),
        (Budget(engine_seconds=51), Usage(engine_seconds=0.01)),
        (Budget(cost_micro_usd=100), Usage(cost_micro_usd=1)),
    ],
)
async def test_what_guards_cost_counts_against_the_budget(
    budget: Budget, cost: Usage, fleet: Any, make_task: Any, make_item: Any
) -> None:
    fleet.safety.cost = cost
    run = dataclasses.replace(RUN, goal=Goal(budget=budget))
    task = make_task(safety={"aspect": "response"})
    job = await execute(fleet, run, drawn(task, some_items(make_item, 500, right=0.5)))
    assert job.run.stop_reason is StopReason.BUDGET_EXHAUSTED
    # The fleet's own answers take half a second of an engine, and no tokens.
    assert len(fleet.ledger.rows) == job.run.spent.items == 100
    assert job.run.spent.tokens == 100 * cost.computed_prompt_tokens
    assert job.run.spent.cost_micro_usd == 100 * cost.cost_micro_usd


async def test_a_budget_is_shared_by_the_tasks(fleet: Any, make_task: Any, make_item: Any) -> None:
    run = dataclasses.replace(RUN, goal=Goal(budget=Budget(items=128)))
    tasks = [drawn(make_task(name), some_items(make_item, 500, 0.5, task=name)) for name in ("shout", "whisper")]
    await execute(fleet, run, *tasks)
    counts = [sum(key[1] == name for key in fleet.ledger.rows) for name in ("shout", "whisper")]
    assert sum(counts) == 128
    # A block more or less: while one waits for the results that its next draws depend on, the other goes on.
    assert min(counts) >= 32


async def test_a_resumed_run_has_spent_what_the_ledger_says(fleet: Any, make_task: Any, make_item: Any) -> None:
    run = dataclasses.replace(RUN, goal=Goal(budget=Budget(items=64)))
    items = some_items(make_item, 500, 0.5)
    await execute(fleet, run, drawn(make_task(), items))
    again = await execute(fleet, dataclasses.replace(run, state=RunState.RUNNING), drawn(make_task(), items))
    assert len(fleet.ledger.rows) == 64
    assert again.run.spent.items == 64
    assert again.run.stop_reason is StopReason.BUDGET_EXHAUSTED


async def test_time_that_is_up_ends_the_run_and_cancels_what_is_in_flight(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    fleet.generator.gate = asyncio.Event()
    run = gated("shout>=0.5", budget=Budget(wall_seconds=0.2))
    async with asyncio.timeout(30):
        job = await execute(fleet, run, drawn(make_task(), some_items(make_item, 100, right=0.5)))
    assert job.run.stop_reason is StopReason.BUDGET_EXHAUSTED
    assert fleet.ledger.rows == {}


@pytest.mark.parametrize("seed", range(25))
async def test_what_runs_spend_exceeds_their_budget_by_what_is_in_flight_at_most(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = Random(seed)

    async def generate(model: str, prompt: Any, options: Any) -> list[GeneratedText]:
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(0)
        tokens = rng.randint(1, 20) * (20 if rng.random() < 0.1 else 1)
        usage = Usage(computed_completion_tokens=tokens)
        return [GeneratedText(prompt.text.upper(), usage, "digest-1", truncated=False)]

    monkeypatch.setattr(fleet.generator, "generate", generate)
    limit, concurrency = rng.randint(50, 3000), rng.choice([1, 3, 16])
    run = dataclasses.replace(RUN, concurrency=concurrency, goal=Goal(budget=Budget(tokens=limit)))
    job = await execute(fleet, run, drawn(make_task(), some_items(make_item, 600, right=0.5)))

    costs = [row.usage.computed_completion_tokens for row in fleet.ledger.rows.values()]
    assert sum(costs) <= limit + concurrency * 400
    assert job.run.spent.tokens == sum(costs)
    assert job.run.stop_reason in (StopReason.BUDGET_EXHAUSTED, StopReason.COMPLETE)
    if job.run.stop_reason is StopReason.BUDGET_EXHAUSTED:
        assert sum(costs) > limit - 450
