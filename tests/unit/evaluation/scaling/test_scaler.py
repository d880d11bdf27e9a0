"""KEDA, played by a real gRPC client, wakes the models for runs, lets them grow, and puts them to sleep at the end."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from evalfleet.evaluation.v1 import evaluation_pb2

from services.evaluation.errors import RunsUnavailableError, ScoringUnavailableError
from services.evaluation.keda import externalscaler_pb2, externalscaler_pb2_grpc
from services.evaluation.rankings.record import Contender, Ranking
from services.evaluation.rankings.store import RankingStore
from services.evaluation.runs.record import RunRequest, RunState
from services.evaluation.scaling.open_work import OpenWork, Places
from services.evaluation.service import EvaluationServicer
from services.evaluation.tasks import Suite
from services.runtime.errors import ResourceExhaustedError, UnavailableError, from_rpc_error
from tests.fakes.keda import COOLDOWN_SECONDS, Keda
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.managing import REQUEST, begun, end_of
from tests.unit.evaluation.runs.suite_books import Book
from tests.unit.evaluation.scaling.replicas import Replicas

GENERATION = {"deployment": "generation", "workPerReplica": "2"}
GUARD = {"deployment": "guard", "workPerReplica": "2"}


async def woken(keda: Keda) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await keda.woken.wait()


async def test_a_run_wakes_the_models_which_grow_and_sleep_after_the_cooldown(replicas: Replicas, fleet: Any) -> None:
    replica = await replicas.start()
    fleet.generator.gate = asyncio.Event()
    async with Keda([replica.server.address], GENERATION).running() as keda:
        assert await keda.ask() == 0
        assert not keda.pushed
        run = await replica.runs.create(REQUEST)  # four items at once
        await woken(keda)
        assert keda.replicas == 1
        assert await keda.ask() == 2
        fleet.generator.gate.set()
        await end_of(replica.runs, run.run_id)
        slept_at = keda.now
        while await keda.ask():
            slept_at = keda.now
        assert slept_at >= COOLDOWN_SECONDS
        assert keda.pushed == [True]


async def test_runs_that_wait_count_and_no_replica_need_have_them(replicas: Replicas) -> None:
    idle = await replicas.start(works=False)
    async with Keda([idle.server.address], GENERATION).running() as keda:
        for _ in range(3):
            await idle.runs.create(REQUEST)
        await woken(keda)
        await keda.settled(6)
    async with Keda([idle.server.address], {"deployment": "evaluation", "workPerReplica": "1"}).running() as keda:
        await keda.settled(3)


async def test_only_what_a_guard_judges_wakes_the_guard(replicas: Replicas, book: Book, make_task: Any) -> None:
    idle = await replicas.start(works=False)
    judged = make_task("judged", safety={"aspect": "response"}, primary_metric="unsafe")
    book.suite = Suite("demo", "a suite", (make_task(), judged))
    async with Keda([idle.server.address], GUARD).running() as keda:
        await idle.runs.create(RunRequest(suite="demo", model="models/tiny", tasks=("shout",)))
        assert await keda.ask() == 0
        await idle.runs.create(RunRequest(suite="demo", model="models/tiny", tasks=("judged",)))
        await woken(keda)
        await keda.settled(2)


async def test_a_replica_that_dies_takes_nothing_with_it(replicas: Replicas, fleet: Any) -> None:
    first, second = await replicas.start(), await replicas.start(works=False)
    fleet.generator.gate = asyncio.Event()
    async with Keda([first.server.address, second.server.address], GENERATION).running() as keda:
        run = await first.runs.create(REQUEST)
        await begun(first.runs, run.run_id)
        await keda.settled(2)
        await first.die()
        # Nobody works on the run, and for longer than the cooldown half of the questions have found nobody.
        for _ in range(int(2 * COOLDOWN_SECONDS / 15)):
            assert await keda.ask() == 2
        fleet.generator.gate.set()
        await second.runs.start()
        assert (await end_of(second.runs, run.run_id)).state is RunState.SUCCEEDED
        await second.runs.stop()
        await keda.settled(0)


async def test_a_stream_that_breaks_is_taken_up_at_another_replica(replicas: Replicas) -> None:
    first, second = await replicas.start(works=False), await replicas.start(works=False)
    async with Keda([first.server.address, second.server.address], GENERATION).running() as keda:
        await until(lambda: keda.streams == 1)
        await first.die()
        await second.runs.create(REQUEST)
        await woken(keda)


async def test_a_stream_ends_well_before_its_connection_is_too_old(replicas: Replicas) -> None:
    replica = await replicas.start(works=False, connection_seconds=0.05)
    async with Keda([replica.server.address], GENERATION).running() as keda:
        await asyncio.wait_for(keda.stub.StreamIsActive(keda.reference).read(), LONGEST_WAIT_SECONDS)
        await until(lambda: keda.streams > 3)
        assert not keda.pushed


async def test_a_database_that_is_away_is_no_idle_fleet(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = await replicas.start(works=False)
    await replica.runs.create(REQUEST)

    async def away() -> None:
        raise RunsUnavailableError("the list of runs cannot be used now")

    async with Keda([replica.server.address], GENERATION).running() as keda:
        await keda.settled(2)
        monkeypatch.setattr(replicas.store, "unfinished", away)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await keda.stub.IsActive(keda.reference)
        assert from_rpc_error(caught.value).reason == "RUNS_UNAVAILABLE"
        for _ in range(int(2 * COOLDOWN_SECONDS / 15)):
            assert await keda.ask() == 2
        streams = keda.streams
        monkeypatch.undo()
        await keda.settled(2)
        assert keda.streams == streams


async def test_a_ranking_keeps_its_models_awake(replicas: Replicas) -> None:
    replica = await replicas.start(works=False)
    contenders = tuple(Contender(f"models/{each}", each, f"run-{each}") for each in "ab")
    ranking = Ranking(
        "rank", "demo", "s", "shout", "exact_match", False, 1, None, 0.95, seed=1, concurrency=7, create_time=1.0,
        contenders=contenders,
    )  # fmt: skip
    await RankingStore(replicas.store.engine).add(ranking)
    async with Keda([replica.server.address], GENERATION).running() as keda:
        await woken(keda)
        await keda.settled(4)


async def test_a_refused_call_wakes_the_models_until_one_goes_well(replicas: Replicas) -> None:
    replica = await replicas.start(works=False)
    async with Keda([replica.server.address], GENERATION).running() as keda:
        with suppress(ResourceExhaustedError), replica.refusals.noting():
            raise ResourceExhaustedError("nothing is left of the budget")
        assert await keda.ask() == 0
        with suppress(UnavailableError), replica.refusals.noting():
            raise UnavailableError("the guard is away")
        await woken(keda)
        with replica.refusals.noting():
            pass
        await keda.settled(0)


async def test_a_run_that_cannot_be_made_for_a_service_asleep_wakes_it(
    replicas: Replicas, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await replicas.start(works=False)
    unused: Any = None
    servicer = EvaluationServicer(replica.runs, unused, unused, unused, unused, replica.refusals)
    request = evaluation_pb2.CreateRunRequest(suite="suites/demo", model="models/tiny")

    async def asleep(model: str) -> str:
        raise UnavailableError("the inference server is not ready", retry_after_seconds=60.0)

    monkeypatch.setattr(fleet.generator, "model_digest", asleep)
    async with Keda([replica.server.address], GUARD).running() as keda:
        with pytest.raises(UnavailableError):
            await servicer.CreateRun(request, unused)
        await woken(keda)
        assert await keda.ask() == 1
        monkeypatch.undo()
        await servicer.CreateRun(request, unused)
        await keda.settled(0)


@pytest.mark.parametrize("method", ["IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics"])
async def test_a_trigger_that_cannot_be_read_is_told_what_is_wrong(replicas: Replicas, method: str) -> None:
    replica = await replicas.start(works=False)
    reference = externalscaler_pb2.ScaledObjectRef(scalerMetadata={"deployment": "generations"})
    question = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=reference)
    call = getattr(externalscaler_pb2_grpc.ExternalScalerStub(replica.server.channel), method)
    answer = call(question if method == "GetMetrics" else reference)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (answer.read() if method == "StreamIsActive" else answer)
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert len(error.field_violations) == 2


async def test_a_suite_that_cannot_be_read_is_not_tried_again_at_once(
    replicas: Replicas, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await replicas.start(works=False)
    await replica.runs.create(REQUEST)
    tried = 0

    async def unreadable(suite: str, tasks: Any = ()) -> Suite:
        nonlocal tried
        tried += 1
        raise UnavailableError("the suite is away")

    monkeypatch.setattr(book, "resolve", unreadable)
    work = OpenWork(replicas.store, RankingStore(replicas.store.engine), book, Places(), max_age_seconds=0.0)
    wanted = [await work.demand() for _ in range(3)]
    assert tried == 1
    assert wanted == [wanted[0]] * 3


async def test_runs_without_a_place_wake_no_more_models_than_one_replica_would_take(replicas: Replicas) -> None:
    idle = await replicas.start(works=False)
    for _ in range(10):
        await idle.runs.create(REQUEST)  # four items at once
    async with Keda([idle.server.address], GENERATION).running() as keda:
        await keda.settled(8)  # of four runs, two items a replica
    async with Keda([idle.server.address], {"deployment": "evaluation", "workPerReplica": "1"}).running() as keda:
        await keda.settled(10)


async def test_scoring_that_is_away_wakes_no_model(replicas: Replicas) -> None:
    refusals = (await replicas.start(works=False)).refusals
    with suppress(UnavailableError), refusals.noting():
        raise ScoringUnavailableError("the scoring service is away")
    assert not refusals.are_recent
    with suppress(UnavailableError), refusals.noting():
        raise UnavailableError("the generation service is away")
    assert refusals.are_recent
