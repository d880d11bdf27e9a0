"""Open runs have series, few of them, and none once they have ended."""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from services.evaluation.runs.record import Run, RunState, TaskProgress
from services.evaluation.runs.run_metrics import MOST_RUNS, RunMetrics
from services.evaluation.runs.store import RunStore
from tests.unit.evaluation.runs.managing import REQUEST, begun, end_of, manager
from tests.unit.evaluation.runs.suite_books import Book


def run(run_id: str, *progress: TaskProgress, start_time: float | None = None) -> Run:
    return Run(run_id, "s", "d", "models/m", "d", 0, 1, 1.0, progress=progress, start_time=start_time)


def shown(*runs: Run) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RunMetrics(lambda: runs))
    return registry


def items_of(registry: CollectorRegistry, run_id: str) -> dict[str, float | None]:
    return {
        state: registry.get_sample_value("evalfleet_run_items", {"run": run_id, "state": state})
        for state in ("scored", "failed", "open")
    }


def test_a_run_is_the_sum_of_its_tasks() -> None:
    tasks = TaskProgress("a", 10, 3, 1), TaskProgress("b", 5, 5, 0), TaskProgress("unread")
    registry = shown(run("r", *tasks, start_time=7.0), run("waits"))
    assert items_of(registry, "r") == {"scored": 8, "failed": 1, "open": 6}
    assert items_of(registry, "waits") == {"scored": 0, "failed": 0, "open": 0}
    assert registry.get_sample_value("evalfleet_run_start_time_seconds", {"run": "r"}) == 7.0
    assert registry.get_sample_value("evalfleet_run_start_time_seconds", {"run": "waits"}) is None


def test_of_more_runs_than_have_series_the_first_have() -> None:
    registry = shown(*(run(str(number)) for number in range(MOST_RUNS + 5)))
    [family] = [each for each in registry.collect() if each.name == "evalfleet_run_items"]
    assert {each.labels["run"] for each in family.samples} == {str(number) for number in range(MOST_RUNS)}


async def test_a_run_has_series_from_its_beginning_to_its_end(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    registry = CollectorRegistry()
    registry.register(RunMetrics(runs.open_runs))
    fleet.generator.gate = asyncio.Event()
    await runs.start()
    created = await runs.create(REQUEST)
    await begun(runs, created.run_id)
    assert items_of(registry, created.run_id) == {"scored": 0, "failed": 0, "open": 10}
    fleet.generator.gate.set()
    assert (await end_of(runs, created.run_id)).state is RunState.SUCCEEDED
    assert not [sample for family in registry.collect() for sample in family.samples]
    await runs.stop()
