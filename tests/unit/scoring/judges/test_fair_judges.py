"""Judges are shared fairly between the callers of the real service; the model that judges is a fake."""

import asyncio

from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.callers import CALLER_KEY
from services.runtime.testing import serve_in_process
from services.scoring.judges.asking import Asking
from services.scoring.judges.known_answers import KnownAnswers
from services.scoring.judges.library import open_library
from services.scoring.registry import ScorerRegistry
from services.scoring.scorers.llm_judge import LlmJudge
from services.scoring.service import hosted
from tests.fakes.judge_model import FakeJudgeModel, section
from tests.patience import until

MUCH, FEW = 1000, 5


def request(text: str) -> scoring_pb2.ScoreRequest:
    return scoring_pb2.ScoreRequest(scorer="scorers/llm_judge", text=text, prompt="Why?")


async def test_a_caller_with_much_to_judge_does_not_keep_one_with_little_waiting() -> None:
    model = FakeJudgeModel(lambda model, prompt, sample: "Verdict: 4")
    model.gate = asyncio.Event()
    known = KnownAnswers(None, CacheMetrics("test", CollectorRegistry()), engine_revision="")
    asking = Asking(model, known, max_concurrent=1)
    async with serve_in_process(hosted(ScorerRegistry((LlmJudge(asking, open_library(), ["judge"]),)))) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        items = (
            scoring_pb2.StreamScoreRequest(item_id=str(number), request=request(f"much {number}"))
            for number in range(MUCH)
        )
        much = stub.StreamScore(items, metadata=[(CALLER_KEY, "much")])
        await until(lambda: asking._places.waiting > FEW)
        batch = scoring_pb2.BatchScoreRequest(requests=[request(f"few {number}") for number in range(FEW)])
        few = asyncio.ensure_future(_score(stub, batch))
        await until(lambda: asking._places._turns.count_of("few") == FEW)
        model.gate.set()
        assert all(each.HasField("response") for each in await few)
        asked = [section(prompt.text, "response").split()[0] for _, prompt in model.asked]
        assert asked[:20].count("few") == FEW
        much.cancel()


async def _score(
    stub: "scoring_pb2_grpc.ScoringServiceAsyncStub", batch: scoring_pb2.BatchScoreRequest
) -> list[scoring_pb2.ScoreResult]:
    return list((await stub.BatchScore(batch, metadata=[(CALLER_KEY, "few")])).results)
