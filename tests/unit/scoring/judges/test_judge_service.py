"""The judge over gRPC: costs, digests and errors as callers see them."""

from collections.abc import AsyncIterator
from typing import TypeAlias

import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.errors import from_status
from services.runtime.testing import serve_in_process
from services.runtime.usage import usage_of
from services.scoring.judges.asking import Asking
from services.scoring.judges.known_answers import KnownAnswers
from services.scoring.judges.library import open_library
from services.scoring.registry import ScorerRegistry
from services.scoring.scorers.llm_judge import LlmJudge
from services.scoring.service import hosted
from tests.fakes.judge_model import ANSWER_COST, FakeJudgeModel, section

Stub: TypeAlias = "scoring_pb2_grpc.ScoringServiceAsyncStub"
MODEL = FakeJudgeModel(lambda model, prompt, sample: "hm" if section(prompt, "response") == "odd" else "Verdict: 4")


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    known = KnownAnswers(None, CacheMetrics("test", CollectorRegistry()), engine_revision="")
    judge = LlmJudge(Asking(MODEL, known, max_concurrent=8), open_library(), ["judge"])
    async with serve_in_process(hosted(ScorerRegistry((judge,)))) as channel:
        yield scoring_pb2_grpc.ScoringServiceStub(channel)


def request(text: str) -> scoring_pb2.ScoreRequest:
    return scoring_pb2.ScoreRequest(scorer="scorers/llm_judge", text=text, prompt="Why?")


async def test_a_score_says_what_it_cost_and_who_judged(stub: Stub) -> None:
    response = await stub.Score(request("fine"))
    assert response.metrics["score"] == 0.75
    assert response.usage.computed_prompt_tokens == ANSWER_COST.computed_prompt_tokens
    assert (response.usage.engine_time.ToMilliseconds(), response.usage.cost_micro_usd) == (500, 3)
    MODEL.digests["models/judge"] = "other weights"
    assert (await stub.Score(request("fine"))).scorer.digest != response.scorer.digest
    MODEL.digests["models/judge"] = "d1"
    assert (await stub.Score(request("other"))).scorer == response.scorer


async def test_garbage_fails_its_request_alone_and_says_what_it_cost(stub: Stub) -> None:
    batch = scoring_pb2.BatchScoreRequest(requests=[request("odd"), request("fine")])
    odd, fine = (await stub.BatchScore(batch)).results
    error = from_status(odd.status)
    assert error.reason == "JUDGE_UNPARSABLE"
    assert usage_of(error) == ANSWER_COST
    assert fine.response.extracted_answer == "4"


async def test_the_judge_is_listed_with_what_it_takes(stub: Stub) -> None:
    scorer = (await stub.GetScorer(scoring_pb2.GetScorerRequest(name="scorers/llm_judge"))).scorer
    types = {each.name: each.type for each in scorer.parameters}
    assert types["judges"] == "list of string"
    assert types["scale"] == "list of number"
    assert [each.name for each in scorer.details] == ["baseline"]
    assert scorer.reads_prompt
    assert {each.name for each in scorer.metrics} >= {"score", "expected_score", "position_inconsistent"}
