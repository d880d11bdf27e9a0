"""Comparisons of the real aggregation process: the same answers from SQLite and from PostgreSQL."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2 as pb
from evalfleet.aggregation.v1 import aggregation_pb2_grpc, comparison_pb2, item_analysis_pb2, regressions_pb2

from services.runtime.channels import open_channel
from services.standalone.postgres_server import PostgresServer

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 120.0
ITEMS = 2500

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"


@asynccontextmanager
async def service(folder: Path, **settings: str) -> AsyncIterator[Stub]:
    """A real process on a free port, until the end of the ``with`` block."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
    environment |= {
        "EVALFLEET_STATE_DIR": str(folder),
        "EVALFLEET_PORT": "0",
        "EVALFLEET_PARENT_PID": str(os.getpid()),
        "EVALFLEET_LOG_FORMAT": "json",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.aggregation", cwd=REPOSITORY, env=environment, stdout=PIPE, stderr=STDOUT
    )
    assert process.stdout is not None
    try:
        address = ""
        async with asyncio.timeout(WAIT_SECONDS):
            async for line in process.stdout:
                if line.startswith(b"{") and (event := json.loads(line))["event"] == "serving":
                    address = str(event["address"])
                    break
        assert address, "the service ended before it served"
        # A full pipe would stop the service.
        reading = asyncio.create_task(process.stdout.read())
        async with open_channel(address) as channel:
            yield aggregation_pb2_grpc.AggregationServiceStub(channel)
        process.terminate()
        await reading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def append(stub: Stub, run: str, values: Sequence[float], *, samples: int = 1) -> None:
    async def requests() -> AsyncIterator[pb.AppendResultsRequest]:
        results = [
            pb.Result(
                run=run,
                task="arithmetic",
                item=f"ä{number}\u00df",
                sample=sample,
                draw_index=number,
                prompt=f"What is {number}\0 plus {number * 7919 % 1000}? «Grüße» {'x' * 300}",
                model_digest=run,
                scored=pb.Scored(metrics={"acc": value}),
            )
            for number, value in enumerate(values)
            for sample in range(samples)
        ]
        for start in range(0, len(results), 1000):
            yield pb.AppendResultsRequest(results=results[start : start + 1000])

    await stub.AppendResults(requests(), timeout=WAIT_SECONDS)


async def asked(stub: Stub) -> tuple[object, object, object]:
    """Fill a ledger with a training run and ask all there is to ask."""
    chance = np.random.default_rng(11)
    difficulty, runs = chance.random(ITEMS), []
    for index, mean in enumerate((0.5, 0.6, 0.6, 0.45, 0.5, 0.6)):
        wobbles = chance.random(ITEMS) < 0.05
        right = np.where(wobbles, chance.random(ITEMS) < mean, difficulty < mean)
        runs.append(f"runs/step-{index}")
        await append(stub, runs[-1], right.astype(float).tolist(), samples=2 if index == 2 else 1)
    compare = comparison_pb2.CompareRunsRequest(base_run=runs[1], variant_run=runs[2], margin=0.02)
    compared = await stub.CompareRuns(compare, timeout=WAIT_SECONDS)
    analyze = item_analysis_pb2.AnalyzeItemsRequest(task="arithmetic", metric="acc")
    analyzed = [each async for each in stub.AnalyzeItems(analyze, timeout=WAIT_SECONDS)]
    watch = regressions_pb2.CheckRegressionsRequest(runs=runs)
    watched = await stub.CheckRegressions(watch, timeout=WAIT_SECONDS)
    return compared, analyzed, watched


def check(compared: object, analyzed: object, watched: object) -> None:
    assert isinstance(compared, comparison_pb2.CompareRunsResponse)
    assert isinstance(watched, regressions_pb2.CheckRegressionsResponse)
    assert isinstance(analyzed, list)
    [comparison] = compared.comparisons
    # Two samples of the variant and one of the base are one value each.
    assert comparison.item_count == ITEMS
    assert compared.decision == comparison_pb2.COMPARISON_DECISION_NOT_INFERIOR
    assert comparison.margin_decision.decided_after < ITEMS
    assert [(alarm.run, alarm.change_index) for alarm in watched.alarms] == [("runs/step-3", 3)]
    assert analyzed[0].summary.item_count == ITEMS
    assert [each.run for each in analyzed[0].summary.runs] == [f"runs/step-{index}" for index in reversed(range(6))]
    assert sum(len(each.items) for each in analyzed) == ITEMS


async def test_sqlite_and_postgresql_give_the_same_answers(tmp_path: Path, postgres: PostgresServer) -> None:
    async with service(tmp_path / "sqlite") as stub:
        in_file = await asked(stub)
    async with service(tmp_path / "postgres", EVALFLEET_LEDGER_URL=postgres.new_database()) as stub:
        in_server = await asked(stub)
    check(*in_file)
    assert in_server == in_file
