"""Awaited calls send what blocking ones send, and give the same values; watches survive a service that restarts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from evalfleet.aggregation.v1 import comparison_pb2
from evalfleet.aio import AsyncFleet
from evalfleet.errors import ModelLoadError, NotFoundError, UnavailableError
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import model_pb2
from evalfleet.results import Model, ModelState, RunState

from tests.fakes.demo_run import make_run, watch_step
from tests.fakes.fleet import FakeFleet
from tests.fakes.rankings import make_ranking
from tests.patience import LONGEST_WAIT_SECONDS

SUCCEEDED = evaluation_pb2.RUN_STATE_SUCCEEDED


@pytest.fixture(autouse=True)
def wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalfleet.aio.watching._RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr("evalfleet.aio.models._POLL_SECONDS", 0.0)


@pytest.fixture
async def awaited(fake: FakeFleet) -> AsyncIterator[AsyncFleet]:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS), AsyncFleet.connect(fake.targets) as connected:
        yield connected


Call = Callable[[Any], Any]
CALLS: dict[str, Call] = {
    "models.list": lambda fleet: fleet.models.list(),
    "models.get": lambda fleet: fleet.models.get("m"),
    "suites.list": lambda fleet: fleet.suites.list(),
    "suites.get": lambda fleet: fleet.suites.get("demo"),
    "runs.list": lambda fleet: fleet.runs.list(limit=1),
    "runs.get": lambda fleet: fleet.runs.get("r1"),
    "runs.snapshot": lambda fleet: fleet.runs.snapshot("r1", with_set_measures=True),
    "runs.failed_items": lambda fleet: fleet.runs.failed_items("r1"),
    "rankings.get": lambda fleet: fleet.rankings.get(make_ranking().name),
    "rankings.list": lambda fleet: fleet.rankings.list(limit=3),
    "comparisons.compare": lambda fleet: fleet.comparisons.compare("r1", "r2", margin=0.01),
    "comparisons.items": lambda fleet: fleet.comparisons.items("arithmetic", "exact_match", runs=["r1"]),
    "comparisons.regressions": lambda fleet: fleet.comparisons.regressions(["r1", "r2"], tolerance=0.1),
    "ledger.prune": lambda fleet: fleet.ledger.prune(["r1"], dry_run=True),
    "runs.cancel": lambda fleet: fleet.runs.cancel("r1"),
    "rankings.cancel": lambda fleet: fleet.rankings.cancel("x"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_an_awaited_call_gives_what_a_blocking_one_gives(
    fake: FakeFleet, fleet: Fleet, awaited: AsyncFleet, name: str
) -> None:
    fake.models.put("m")
    for run in ("r1", "r2"):
        fake.evaluation.put(make_run(run, done=10, state=SUCCEEDED))
    fake.rankings.script = [make_ranking()]
    fake.aggregation.comparisons = [comparison_pb2.CompareRunsResponse()]
    assert await CALLS[name](awaited) == await asyncio.to_thread(CALLS[name], fleet)


async def test_a_run_is_started_with_what_was_asked(fake: FakeFleet, fleet: Fleet, awaited: AsyncFleet) -> None:
    asked: dict[str, Any] = {
        "model": "step-100",
        "suite": "demo",
        "tasks": ["harm"],
        "item_limit": 5,
        "gates": ["harm>=0.5"],
        "budget": "2usd",
        "seed": 0,
        "run_id": "mine",
        "tier": "smoke",
        "temperature": 0.7,
    }
    run = await awaited.runs.start(**asked)
    await asyncio.to_thread(lambda: fleet.runs.start(**asked))
    by_awaited, by_blocking = fake.evaluation.created
    assert by_awaited.request_id != by_blocking.request_id
    by_awaited.request_id = by_blocking.request_id
    assert by_awaited == by_blocking
    assert (run.name, run.state) == ("runs/mine", RunState.PENDING)


async def test_a_watch_survives_restarts_and_ends_with_the_run(fake: FakeFleet, awaited: AsyncFleet) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.scripts = [
        [watch_step(make_run(done=3)), grpc.StatusCode.UNAVAILABLE],
        [],
        [watch_step(make_run(done=10, state=SUCCEEDED))],
    ]
    assert [each.run.tasks[0].done_count async for each in awaited.runs.watch("r1")] == [3, 10]
    with pytest.raises(NotFoundError):
        await anext(awaited.runs.watch("r9"))
    fake.evaluation.scripts = [[grpc.StatusCode.UNAVAILABLE]]
    with pytest.raises(UnavailableError):
        await anext(awaited.runs.watch("r1", patience_seconds=0.02))


async def test_a_watch_that_is_left_ends_its_call(fake: FakeFleet, awaited: AsyncFleet) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.hold = True
    fake.evaluation.scripts = [[watch_step(make_run(done=3))]]
    async with aclosing(awaited.runs.watch("r1")) as watching:
        await anext(watching)
        assert await asyncio.to_thread(fake.evaluation.watching.wait, LONGEST_WAIT_SECONDS)
    assert await asyncio.to_thread(fake.evaluation.watch_ended.wait, LONGEST_WAIT_SECONDS)


async def test_a_ranking_is_watched_over_a_break(fake: FakeFleet, awaited: AsyncFleet) -> None:
    fake.rankings.script = [make_ranking(is_done=False), grpc.StatusCode.UNAVAILABLE, make_ranking()]
    seen = [each.state async for each in awaited.rankings.watch("x")]
    assert seen[-1] is RunState.SUCCEEDED
    started = await awaited.rankings.start(models=["a", "b"], suite="demo")
    assert started == await awaited.rankings.get(started.name)
    with pytest.raises(ValueError, match="one question"):
        await awaited.rankings.start(models=["a", "b"], suite="demo", top=1, margin=0.1)


async def test_loading_is_waited_for_and_may_fail(fake: FakeFleet, awaited: AsyncFleet) -> None:
    fake.models.loading_polls = 3
    seen: list[Model] = []
    model = await awaited.models.add("x", on_state=seen.append)
    assert [each.state for each in seen] == [ModelState.LOADING] * 3
    assert model.state is ModelState.READY
    await awaited.models.remove(model.name)
    assert await awaited.models.list() == ()

    fake.models.final_state, fake.models.failure = model_pb2.MODEL_STATE_FAILED, "no safetensors"
    with pytest.raises(ModelLoadError, match="no safetensors"):
        await awaited.models.connect("llm:8001", "llama", protocol="vllm-backend", hub="organization/name")
    fake.models.final_state, fake.models.loading_polls = model_pb2.MODEL_STATE_READY, 1_000_000
    with pytest.raises(ModelLoadError, match="still loading"):
        await awaited.models.add("y", timeout_seconds=0.05)


async def test_results_of_items_come_page_by_page(fake: FakeFleet, fleet: Fleet, awaited: AsyncFleet) -> None:
    fake.aggregation.results = [
        type(fake.aggregation.failed[0])(run="runs/r1", task="t", item=f"i{n}") for n in range(5)
    ]
    fake.aggregation.largest_page = 2
    found = [each async for each in awaited.runs.results("r1")]
    assert [each.item for each in found] == [f"i{number}" for number in range(5)]
    assert found == await asyncio.to_thread(lambda: list(fleet.runs.results("r1")))
