"""What judging costs is booked to the item, also where a judge fails; judges keep nobody else waiting."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.scoring.v1 import scoring_pb2
from google.protobuf.duration_pb2 import Duration

from services.evaluation.runs.budget import Spend
from services.evaluation.runs.outcome import JudgeReference, Usage
from services.evaluation.runs.peers import ScoredOutput, ScorerCall
from services.evaluation.runs.pipeline import ItemPipeline, RunCannotGoOnError
from services.evaluation.runs.remote_scoring import RemoteScorerPanel
from services.evaluation.runs.scoring_bill import usage_of, with_usage
from services.runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FleetError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    to_status,
)
from services.runtime.server import HostedService
from services.runtime.testing import serve_in_process
from tests.patience import LONGEST_WAIT_SECONDS

COST = Usage(100, 10, 0.25, 90, 10, 10, 0, 7)
Answer = Callable[[scoring_pb2.ScoreRequest], scoring_pb2.ScoreResult]


def unparsable(cost: Usage = COST) -> FleetError:
    return with_usage(FailedPreconditionError("no verdict", reason="JUDGE_UNPARSABLE"), cost)


class FakePanel:
    """Gives the outcomes that a test lists, one a call."""

    def __init__(self, *outcomes: FleetError | Usage) -> None:
        self.outcomes = list(outcomes)

    async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput]:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, FleetError):
            raise outcome
        return [ScoredOutput({"exact_match": 1.0}, None, JudgeReference("scorers/x", "1", "d"), outcome)]


def pipeline(task: Any, fleet: Any, panel: FakePanel, patience_seconds: float = 0.0) -> ItemPipeline:
    return ItemPipeline(
        task,
        model="models/tiny",
        seed=7,
        generator=fleet.generator,
        safety=fleet.safety,
        scorers=panel,  # type: ignore[arg-type]
        patience_seconds=patience_seconds,
    )


async def test_a_judges_cost_is_the_items(fleet: Any, make_task: Any, make_item: Any) -> None:
    (outcome,) = await pipeline(make_task(), fleet, FakePanel(COST)).outcomes(make_item("hello"), 0)

    assert outcome.metrics == {"exact_match": 1.0}
    assert outcome.usage == Usage(3, 2, 0.5) + COST
    assert Spend.of_item(outcome.usage) == Spend(1, 100, 0.75, 7)


async def test_an_item_without_a_verdict_still_pays_for_its_judge(fleet: Any, make_task: Any, make_item: Any) -> None:
    (outcome,) = await pipeline(make_task(), fleet, FakePanel(unparsable())).outcomes(make_item("hello"), 0)

    assert outcome.failure is not None
    assert outcome.failure.reason == "JUDGE_UNPARSABLE"
    assert outcome.usage == Usage(3, 2, 0.5) + COST


async def test_every_attempt_is_paid_for(fleet: Any, make_task: Any, make_item: Any) -> None:
    away = with_usage(UnavailableError("loading", retry_after_seconds=0.0), COST)
    judged = pipeline(make_task(), fleet, FakePanel(away, COST), patience_seconds=LONGEST_WAIT_SECONDS)
    (outcome,) = await judged.outcomes(make_item("hello"), 0)

    assert outcome.failure is None
    assert outcome.usage == Usage(3, 2, 0.5) + COST + COST


async def test_a_judge_that_does_not_exist_ends_the_run(fleet: Any, make_task: Any, make_item: Any) -> None:
    missing = NotFoundError("no model named x", reason="JUDGE_MODEL_NOT_FOUND")
    with pytest.raises(RunCannotGoOnError):
        await pipeline(make_task(), fleet, FakePanel(missing)).outcomes(make_item("hello"), 0)


@pytest.mark.parametrize("figure", ["many", "nan", "-3", "inf", ""])
def test_a_cost_that_is_no_number_is_none(figure: str) -> None:
    error = FailedPreconditionError("x", metadata={"usage_prompt_tokens": figure, "usage_engine_seconds": figure})
    assert usage_of(error) == Usage()


@asynccontextmanager
async def panel(answer: Callable[[scoring_pb2.BatchScoreRequest], Any]) -> AsyncIterator[RemoteScorerPanel]:
    """Yield a panel whose service answers batches as told."""
    name = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name

    async def handle(request: scoring_pb2.BatchScoreRequest, context: Any) -> scoring_pb2.BatchScoreResponse:
        return scoring_pb2.BatchScoreResponse(results=await answer(request))

    handler: Any = grpc.unary_unary_rpc_method_handler(
        handle, scoring_pb2.BatchScoreRequest.FromString, scoring_pb2.BatchScoreResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler(name, {"BatchScore": handler})
    service = HostedService(name, lambda server: server.add_generic_rpc_handlers((handlers,)))
    async with serve_in_process(service) as channel:
        yield RemoteScorerPanel(channel, timeout_seconds=LONGEST_WAIT_SECONDS)


def judged(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResult:
    """A judge's score costs; one that is to fail costs as well; other scorers cost nothing."""
    if request.text == "garbage":
        return scoring_pb2.ScoreResult(status=to_status(unparsable()))
    response = scoring_pb2.ScoreResponse(metrics={"score": 1.0})
    if request.scorer == "scorers/llm_judge":
        response.usage.CopyFrom(
            common_pb2.Usage(
                prompt_tokens=100,
                completion_tokens=10,
                engine_time=Duration(nanos=250_000_000),
                computed_prompt_tokens=90,
                computed_completion_tokens=10,
                prefix_saved_tokens=10,
                cost_micro_usd=7,
            )
        )
    return scoring_pb2.ScoreResult(response=response)


async def test_costs_of_an_output_that_fails_are_summed_over_its_scorers() -> None:
    async def answer(request: scoring_pb2.BatchScoreRequest) -> list[scoring_pb2.ScoreResult]:
        return [judged(each) for each in request.requests]

    async with panel(answer) as scorers:
        (found,) = await scorers.score([ScorerCall("llm_judge", {}, text="x")])
        assert found.usage == COST
        with pytest.raises(FleetError) as failed:
            await scorers.score(
                [
                    ScorerCall("llm_judge", {}, text="x"),
                    ScorerCall("exact_match", {}, text="x"),
                    ScorerCall("llm_judge", {}, text="garbage"),
                ]
            )
    assert failed.value.reason == "JUDGE_UNPARSABLE"
    assert usage_of(failed.value) == COST + COST


@pytest.mark.parametrize("slow_one", ["llm_judge", "code_execution"])
async def test_nobody_waits_for_a_judge_or_a_program(slow_one: str) -> None:
    release, waiting = asyncio.Event(), asyncio.Event()

    async def answer(request: scoring_pb2.BatchScoreRequest) -> list[scoring_pb2.ScoreResult]:
        if any(each.scorer == f"scorers/{slow_one}" for each in request.requests):
            waiting.set()
            await release.wait()
        return [judged(each) for each in request.requests]

    async with panel(answer) as scorers:
        slow = asyncio.create_task(scorers.score([ScorerCall(slow_one, {}, text=str(each)) for each in range(3)]))
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await waiting.wait()
            quick = [scorers.score([ScorerCall("exact_match", {}, text="x")]) for _ in range(5)]
            assert len(await asyncio.gather(*quick)) == 5
            assert not slow.done()
            release.set()
            assert len(await slow) == 3


async def test_what_shares_a_call_that_breaks_does_not_lose_what_a_judge_beside_it_cost() -> None:
    async def answer(request: scoring_pb2.BatchScoreRequest) -> list[scoring_pb2.ScoreResult]:
        if any(each.scorer == "scorers/exact_match" for each in request.requests):
            raise FailedPreconditionError("broken", reason="BROKEN")
        return [judged(each) for each in request.requests]

    async with panel(answer) as scorers:
        with pytest.raises(FleetError) as failed:
            await scorers.score([ScorerCall("exact_match", {}, text="x"), ScorerCall("llm_judge", {}, text="x")])
    assert failed.value.reason == "BROKEN"
    assert usage_of(failed.value) == COST


async def test_an_output_whose_turn_did_not_come_is_asked_for_again() -> None:
    late = DeadlineExceededError("no score yet", reason="SCORE_DEADLINE_EXCEEDED")

    async def answer(request: scoring_pb2.BatchScoreRequest) -> list[scoring_pb2.ScoreResult]:
        return [scoring_pb2.ScoreResult(status=to_status(late))]

    async with panel(answer) as scorers:
        with pytest.raises(ResourceExhaustedError) as failed:
            await scorers.score([ScorerCall("code_execution", {}, text="x")])
    assert failed.value.reason == "SCORE_DEADLINE_EXCEEDED"
