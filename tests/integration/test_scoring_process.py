"""The real scoring process: serves, is healthy, outlives its scorers, and stops with all of its processes."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.callers import CALLER_KEY
from services.runtime.channels import open_channel
from services.runtime.errors import from_rpc_error, from_status
from tests.patience import LONGEST_WAIT_SECONDS, until

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]


async def address_in(log: asyncio.StreamReader) -> str:
    """Read the log until the process says that it serves."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        async for line in log:
            if line.startswith(b"{") and (event := json.loads(line))["event"] == "serving":
                return str(event["address"])
    raise AssertionError("the service ended before it served")


@dataclass(frozen=True, slots=True)
class Service:
    """A scoring service with one process for heavy scorers, and a plug-in that brings one."""

    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel
    stub: "scoring_pb2_grpc.ScoringServiceAsyncStub"


@asynccontextmanager
async def scoring_service(plugins: Path) -> AsyncIterator[Service]:
    distribution = plugins / "fake_scorers-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-scorers\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        "[evalfleet.scorers]\nfake_heavy = tests.fakes.heavy_scorer:FakeHeavyScorer\nbroken = nothing:Nothing\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
    environment |= {
        "PYTHONPATH": str(plugins),
        "EVALFLEET_PORT": "0",
        "EVALFLEET_PARENT_PID": str(os.getpid()),
        "EVALFLEET_LOG_FORMAT": "json",
        "EVALFLEET_POOL_WORKERS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scoring", cwd=REPOSITORY, env=environment, stdout=PIPE, stderr=STDOUT
    )
    try:
        assert process.stdout is not None
        async with open_channel(await address_in(process.stdout)) as channel:
            yield Service(process, channel, scoring_pb2_grpc.ScoringServiceStub(channel))
    finally:
        if process.returncode is None:
            process.kill()
        # Reads what it still says, so that a full pipe holds nothing up.
        await process.communicate()


def heavy(text: str) -> scoring_pb2.ScoreRequest:
    return scoring_pb2.ScoreRequest(scorer="scorers/fake_heavy", text=text)


def requests_for_heavy_scorers() -> scoring_pb2.BatchScoreRequest:
    """Requests whose scorers bring large libraries into the bounded memory of a process."""
    requests = [
        scoring_pb2.ScoreRequest(scorer="scorers/math_equivalence", text=r"$\frac{2}{4}$", targets=["0.5"]),
        scoring_pb2.ScoreRequest(scorer="scorers/json_schema", text="[1]"),
        scoring_pb2.ScoreRequest(scorer="scorers/bleu", text="a b c d e", targets=["a b c d e"]),
    ]
    requests[1].parameters.update({"json_schema": {"type": "array", "items": {"type": "string"}}})
    return scoring_pb2.BatchScoreRequest(requests=requests)


async def worker_of(service: Service) -> int:
    return int((await service.stub.Score(heavy("pid"), timeout=LONGEST_WAIT_SECONDS)).extracted_answer)


async def gone(pid: int) -> None:
    await until(lambda: not os.path.exists(f"/proc/{pid}"))


async def test_serves_and_stops_with_its_processes(tmp_path: Path) -> None:
    async with scoring_service(tmp_path) as service:
        health = await health_pb2_grpc.HealthStub(service.channel).Check(
            health_pb2.HealthCheckRequest(service="evalfleet.scoring.v1.ScoringService")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        request = scoring_pb2.ScoreRequest(scorer="scorers/numeric_answer", text="#### 18", targets=["18"])
        assert dict((await service.stub.Score(request)).metrics) == {"numeric_match": 1.0}
        heavy_ones = await service.stub.BatchScore(requests_for_heavy_scorers(), timeout=LONGEST_WAIT_SECONDS)
        assert [dict(result.response.metrics) for result in heavy_ones.results] == [
            {"math_match": 1.0},
            {"valid_json": 1.0, "matches_schema": 0.0},
            {"bleu": 1.0},
        ]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Score(scoring_pb2.ScoreRequest(scorer="scorers/broken", text="a"))
        assert from_rpc_error(caught.value).reason == "SCORER_BROKEN"
        worker = await worker_of(service)
        for module, is_there in (("colorsys", 1.0), ("sndhdr", 0.0)):
            assert dict((await service.stub.Score(heavy(f"has {module}"))).metrics) == {"value": is_there}
        service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await service.process.communicate()
        assert service.process.returncode == 0
        await gone(worker)


async def test_what_befalls_a_process_of_the_pool_costs_one_output(tmp_path: Path) -> None:
    hanging = scoring_pb2.BatchScoreRequest(requests=[heavy("hang")])
    async with scoring_service(tmp_path) as service:
        first = await worker_of(service)
        os.kill(first, signal.SIGKILL)
        second = await worker_of(service)
        assert second != first
        batch = scoring_pb2.BatchScoreRequest(requests=[heavy("pid"), heavy("die"), heavy("pid")])
        fine, died, also_fine = (await service.stub.BatchScore(batch, timeout=LONGEST_WAIT_SECONDS)).results
        assert fine.response.extracted_answer == str(second)
        assert from_status(died.status).reason == "SCORER_CRASHED"
        assert also_fine.HasField("response")
        [hung] = (await service.stub.BatchScore(hanging, timeout=1)).results
        assert from_status(hung.status).reason == "SCORE_DEADLINE_EXCEEDED"
        third = await worker_of(service)
        service.process.kill()
        await gone(third)


async def test_two_callers_share_the_pool(tmp_path: Path) -> None:
    async with scoring_service(tmp_path) as service:
        await worker_of(service)
        much = service.stub.StreamScore(metadata=[(CALLER_KEY, "much")])
        for number in range(200):
            await much.write(scoring_pb2.StreamScoreRequest(item_id=str(number), request=heavy("pause 0.02")))
        await much.done_writing()
        assert await much.read() is not grpc.aio.EOF
        few = scoring_pb2.BatchScoreRequest(requests=[heavy("pause 0.02")] * 5)
        answer = asyncio.create_task(_results(service.stub.BatchScore(few, metadata=[(CALLER_KEY, "few")])))
        done = 1
        while not answer.done():
            await much.read()
            done += 1
        assert all(result.HasField("response") for result in await answer)
        assert done < 200


async def _results(call: Any) -> list[scoring_pb2.ScoreResult]:
    return list((await call).results)
