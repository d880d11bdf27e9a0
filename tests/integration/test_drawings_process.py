"""Drawings of real aggregation processes that are killed: the same draws and decisions as if nothing had happened."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc, drawing_pb2

from services.runtime.channels import open_channel
from services.standalone.postgres_server import PostgresServer
from tests.integration.test_aggregation_process import Running, kill, service

pytestmark = pytest.mark.integration

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"
SIZE = 700
IDS = [f"item-{index}" for index in range(SIZE)]
WAIT_SECONDS = 120.0


def score(model: int, item: str) -> float:
    """Models agree on most items, which are easy or hard."""
    ease = random.Random(item).betavariate(0.2, 0.2)
    return float(random.Random(f"{model} {item}").random() < ease)


def spec(model: int) -> drawing_pb2.DrawingSpec:
    gate = drawing_pb2.Gate(direction=drawing_pb2.GATE_DIRECTION_AT_LEAST, threshold=0.45)
    precision = drawing_pb2.Precision(half_width=0.05)
    return drawing_pb2.DrawingSpec(
        run=f"runs/{model}",
        task="t",
        metric="acc",
        seed=1,
        model=f"models/{model}",
        data_digest="d",
        questions=[
            drawing_pb2.Question(gate=gate, alpha=0.02),
            drawing_pb2.Question(precision=precision, alpha=0.03),
        ],
        previous_run=f"runs/{model - 1}" if model else "",
    )


@dataclass
class Played:
    """What one evaluation came to."""

    draws: list[drawing_pb2.Draw] = field(default_factory=list)
    decision: drawing_pb2.TaskDecision = field(default_factory=drawing_pb2.TaskDecision)


async def create(stub: Stub, model: int) -> drawing_pb2.Drawing:
    request = drawing_pb2.CreateDrawingRequest(spec=spec(model), item_ids=IDS)
    return (await stub.CreateDrawing(iter([request]), timeout=WAIT_SECONDS)).drawing


async def step(stub: Stub, other: Stub, model: int, played: Played, block: int) -> None:
    """Draw a block from one replica, append half of it to each, and see what is decided."""
    run = f"runs/{model}"
    drawn = await stub.DrawItems(
        drawing_pb2.DrawItemsRequest(run=run, task="t", first_draw_index=len(played.draws), count=block),
        timeout=WAIT_SECONDS,
    )
    assert drawn.draws, drawn
    results = [
        aggregation_pb2.Result(
            run=run,
            task="t",
            item=each.item_id,
            draw_index=each.draw_index,
            scored=aggregation_pb2.Scored(metrics={"acc": score(model, each.item_id)}),
        )
        for each in drawn.draws
    ]
    for replica, part in ((other, results[1::2]), (stub, results[::2])):
        request = aggregation_pb2.AppendResultsRequest(results=part)
        response = await replica.AppendResults(iter([request]), timeout=WAIT_SECONDS)
        played.decision = response.decisions[0] if response.decisions else played.decision
    played.draws += drawn.draws


@asynccontextmanager
async def stub_of(running: Running) -> AsyncIterator[Stub]:
    async with open_channel(running.address) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)


def is_done(model: int, played: Played) -> bool:
    """The first checkpoint is evaluated in full, so that it is the same history whatever was in flight at its end."""
    return played.decision.is_decided if model else len(played.draws) == SIZE


async def undisturbed(folder: Path) -> list[Played]:
    """Evaluate two checkpoints, the second with the first as its history, in peace and in large blocks."""
    runs = [Played(), Played()]
    async with service(folder) as running, stub_of(running) as stub:
        for model, played in enumerate(runs):
            drawing = await create(stub, model)
            assert list(drawing.history_runs) == [f"runs/{each}" for each in range(model)]
            while not is_done(model, played):
                await step(stub, stub, model, played, 1000)
    return runs


def assert_same(found: Sequence[Played], expected: Sequence[Played]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        shared = min(len(mine.draws), len(theirs.draws))
        assert mine.draws[:shared] == theirs.draws[:shared]
        assert [each.decided_after for each in mine.decision.questions] == [
            each.decided_after for each in theirs.decision.questions
        ]
        assert [(each.state, each.log_evidence_pass) for each in mine.decision.questions] == [
            (each.state, each.log_evidence_pass) for each in theirs.decision.questions
        ]


async def in_flight_when_killed(running: Running, stub: Stub, model: int, played: Played) -> None:
    """Kill the process while it draws and appends."""
    work = asyncio.ensure_future(step(stub, stub, model, Played(list(played.draws)), 7))
    await asyncio.sleep(0)
    kill(running.process)
    await asyncio.wait([work])
    assert work.exception() is None or isinstance(work.exception(), grpc.aio.AioRpcError)


async def test_kills_in_the_middle_change_neither_draws_nor_decisions(tmp_path: Path) -> None:
    expected = await undisturbed(tmp_path / "undisturbed")
    found = [Played(), Played()]
    chance = random.Random(4)
    for model, played in enumerate(found):
        while not is_done(model, played):
            async with service(tmp_path / "killed") as running, stub_of(running) as stub:
                await create(stub, model)
                # What the killed process had drawn or stored of this block changes nothing.
                for _ in range(chance.randrange(1, 12)):
                    if not is_done(model, played):
                        await step(stub, stub, model, played, chance.randrange(1, 100))
                await in_flight_when_killed(running, stub, model, played)
    assert_same(found, expected)
    assert len(expected[1].draws) < SIZE


async def test_replicas_on_one_postgresql_draw_and_decide_as_one(tmp_path: Path, postgres: PostgresServer) -> None:
    expected = await undisturbed(tmp_path / "undisturbed")
    url = postgres.new_database()
    found = [Played(), Played()]
    chance = random.Random(5)

    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(service(tmp_path, EVALFLEET_LEDGER_URL=url)) for _ in range(2)]
        stubs = [await stack.enter_async_context(stub_of(each)) for each in processes]
        for model, played in enumerate(found):
            drawings = await asyncio.gather(*(create(stub, model) for stub in stubs))
            assert drawings[0] == drawings[1]
            while not is_done(model, played):
                if chance.random() < 0.1:
                    kill(processes[0].process)
                    processes[0] = await stack.enter_async_context(service(tmp_path, EVALFLEET_LEDGER_URL=url))
                    stubs[0] = await stack.enter_async_context(stub_of(processes[0]))
                chance.shuffle(order := [0, 1])
                asked = drawing_pb2.DrawItemsRequest(
                    run=f"runs/{model}", task="t", first_draw_index=len(played.draws), count=40
                )
                both = await asyncio.gather(*(stub.DrawItems(asked, timeout=WAIT_SECONDS) for stub in stubs))
                assert both[0].draws == both[1].draws
                await step(stubs[order[0]], stubs[order[1]], model, played, 40)
    assert_same(found, expected)
