"""A run's items: exactly one outcome each, across failures, restarts and a ledger that comes and goes."""

import asyncio
import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.evaluation.runs.executor import RunExecutor
from services.evaluation.runs.record import Run, RunState, TaskProgress
from services.evaluation.runs.task_items import TaskItems
from services.runtime.errors import (
    DeadlineExceededError,
    FleetError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

RUN = Run("r", "demo", "sd", "models/tiny", "digest-1", seed=1, concurrency=4, create_time=1.0)


async def execute(job: RunExecutor, *tasks: TaskItems) -> None:
    job.begin(tasks)
    await job.execute()


def drawn(task: Any, items: Any, data_digest: str = "rows-1") -> TaskItems:
    return TaskItems(task, items, data_digest)


def executor(fleet: Any, run: Run = RUN, changes: list[Run] | None = None, patience: float = 60.0) -> RunExecutor:
    seen = changes if changes is not None else []
    return RunExecutor(run, fleet.peers, on_change=seen.append, patience_seconds=patience)


async def test_every_item_gets_its_outcome_and_progress_counts_them(fleet: Any, make_task: Any, make_item: Any) -> None:
    items = [make_item(f"item {index}") for index in range(50)]
    fleet.generator.failures["item 3"] = [DeadlineExceededError("slow")]
    changes: list[Run] = []
    job = executor(fleet, changes=changes)
    await execute(job, drawn(make_task(), items))

    assert {key[2] for key in fleet.ledger.rows} == {item.item_id for item in items}
    assert job.run.state is RunState.RUNNING
    assert job.run.progress == (TaskProgress("shout", 50, scored_count=49, failed_count=1, data_digest="rows-1"),)
    assert [change.progress[0].item_count for change in changes if change.progress] == [50] * len(changes)
    assert sorted(row.draw_index for row in fleet.ledger.rows.values()) == list(range(50))


async def test_a_resumed_run_asks_only_what_the_ledger_lacks(fleet: Any, make_task: Any, make_item: Any) -> None:
    items = [make_item(f"item {index}") for index in range(20)]
    await execute(executor(fleet), drawn(make_task(), items[:12]))
    fleet.generator.asked.clear()

    job = executor(fleet)
    await execute(job, drawn(make_task(), items))

    assert sorted(fleet.generator.asked) == sorted(item.item_id for item in items[12:])
    assert len(fleet.ledger.rows) == 20
    assert job.run.progress[0].scored_count == 20


async def test_cancelling_leaves_only_whole_outcomes_and_the_rest_can_be_done_later(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    items = [make_item(f"item {index}") for index in range(8)]
    fleet.generator.gate = asyncio.Event()
    job = asyncio.create_task(execute(executor(fleet), drawn(make_task(), items)))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    fleet.generator.gate.set()

    await execute(executor(fleet), drawn(make_task(), items))
    assert len(fleet.ledger.rows) == 8


async def test_a_ledger_that_is_away_is_waited_for(fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.ledger.errors = [UnavailableError("away", retry_after_seconds=0.0)] * 3
    job = executor(fleet)
    await execute(job, drawn(make_task(), [make_item("a"), make_item("b")]))
    assert len(fleet.ledger.rows) == 2
    assert job.run.progress[0].scored_count == 2


async def test_a_ledger_that_stays_away_ends_the_run(fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.ledger.errors = [UnavailableError("away", retry_after_seconds=5.0)]
    with pytest.raises(UnavailableError, match="away"):
        await execute(executor(fleet, patience=1.0), drawn(make_task(), [make_item("a")]))


async def test_an_outcome_that_the_ledger_refuses_fails_alone(fleet: Any, make_task: Any, make_item: Any) -> None:
    poison = InvalidArgumentError("text has a NUL")
    fleet.ledger.refuses = lambda outcome: poison if "item 2" in outcome.prompt else None
    items = [make_item(f"item {index}") for index in range(6)]
    job = executor(fleet)
    await execute(job, drawn(make_task(), items))

    failures = {row.item: row.failure.reason for row in fleet.ledger.rows.values() if row.failure}
    assert failures == {"item 2": "LEDGER_REFUSED"}
    assert job.run.progress == (TaskProgress("shout", 6, 5, 1, "rows-1"),)


async def test_a_model_that_is_gone_ends_the_run(fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.generator.failures["a"] = [NotFoundError("no model")]
    with pytest.raises(NotFoundError):
        await execute(executor(fleet), drawn(make_task(), [make_item("a")]))


ERRORS = st.sampled_from(
    [
        DeadlineExceededError("slow"),
        InvalidArgumentError("odd"),
        ResourceExhaustedError("busy", retry_after_seconds=0.0),
        UnavailableError("away", retry_after_seconds=0.0),
    ]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    failures=st.dictionaries(st.integers(0, 19), st.lists(ERRORS, min_size=1, max_size=3)),
    ledger_errors=st.lists(st.just(UnavailableError("away", retry_after_seconds=0.0)), max_size=3),
    samples=st.integers(1, 3),
    interrupt_after=st.none() | st.integers(0, 20),
)
async def test_whatever_happens_each_sample_of_each_item_has_one_outcome(
    failures: dict[int, list[FleetError]],
    ledger_errors: list[FleetError],
    samples: int,
    interrupt_after: int | None,
    make_task: Any,
    make_item: Any,
    fleet: Any,
) -> None:
    fresh = type(fleet)()
    fresh.generator.failures = {f"item {index}": list(errors) for index, errors in failures.items()}
    fresh.ledger.errors = list(ledger_errors)
    task = make_task(generation={"sample_count": samples, "temperature": 1.0})
    work = drawn(task, [make_item(f"item {index}") for index in range(20)])

    job = asyncio.create_task(execute(executor(fresh), work))
    if interrupt_after is not None:
        for _ in range(interrupt_after):
            await asyncio.sleep(0)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
    else:
        await job
    second = executor(fresh, dataclasses.replace(RUN, state=RunState.RUNNING))
    await execute(second, work)

    keys = [(item, sample) for _, _, item, sample in fresh.ledger.rows]
    assert sorted(keys) == sorted((f"item {index}", sample) for index in range(20) for sample in range(samples))
    done = second.run.progress[0]
    assert done.scored_count + done.failed_count == done.item_count == 20 * samples
