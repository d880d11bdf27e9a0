"""The real scoring process: serves, is healthy, and stops."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.channels import open_channel
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]


async def address_in(log: asyncio.StreamReader) -> str:
    """Read the log until the process says that it serves."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        async for line in log:
            if line.startswith(b"{") and (event := json.loads(line))["event"] == "serving":
                return str(event["address"])
    raise AssertionError("the service ended before it served")


async def test_serves_and_stops() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
    environment |= {
        "EVALFLEET_PORT": "0",
        "EVALFLEET_PARENT_PID": str(os.getpid()),
        "EVALFLEET_LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scoring", cwd=REPOSITORY, env=environment, stdout=PIPE, stderr=STDOUT
    )
    try:
        assert process.stdout is not None
        address = await address_in(process.stdout)
        async with open_channel(address) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="evalfleet.scoring.v1.ScoringService")
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            request = scoring_pb2.ScoreRequest(scorer="scorers/numeric_answer", text="#### 18", targets=["18"])
            response = await scoring_pb2_grpc.ScoringServiceStub(channel).Score(request)
            assert dict(response.metrics) == {"numeric_match": 1.0}
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
