"""Programs through the scoring service: several samples of an item, and a call whose time is up."""

import sys

import grpc
import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from prometheus_client import CollectorRegistry

from services.runtime.testing import serve_in_process
from services.scoring.settings import ScoringSettings
from services.scoring.wiring import wire
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]


def request(*texts: str, k: int) -> scoring_pb2.ScoreRequest:
    made = scoring_pb2.ScoreRequest(
        scorer="scorers/code_execution", samples=scoring_pb2.TextSamples(texts=[f"    {text}\n" for text in texts])
    )
    made.details.update({"prompt": "def f():\n", "tests": "def check(g): assert g() == 1", "entry_point": "f"})
    made.parameters.update({"k": k, "timeout_seconds": 30})
    return made


async def test_samples_are_run_and_a_call_ends_in_time() -> None:
    async with (
        wire(ScoringSettings(sandbox_programs=2), CollectorRegistry()) as services,
        serve_in_process(*services) as channel,
    ):
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        samples = request("return 1", "return 2", "import sys; sys.exit(0)", k=2)
        response = await stub.Score(samples, timeout=LONGEST_WAIT_SECONDS)
        shares = {name: value for name, value in response.metrics.items() if value}
        third = pytest.approx(1 / 3)
        assert shares == {"passed": third, "pass_at_k": pytest.approx(2 / 3), "wrong": third, "exited_early": third}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Score(request("while True: pass", k=1), timeout=1.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
