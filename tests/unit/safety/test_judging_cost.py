"""What judging costs is told with every verdict, and with every error: once, whoever was asked and whatever failed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

from services.inference.contract import Prompt
from services.runtime.errors import FailedPreconditionError, FleetError, UnavailableError, from_status
from services.runtime.prices import Price, PriceTable
from services.runtime.testing import serve_in_process
from services.runtime.usage import Usage, usage_of, with_usage
from services.safety.catalogue import GuardCatalogue
from services.safety.classifier_guard import ClassifierGuard
from services.safety.guard import LabelledText
from services.safety.judgement import Decision, Verdict
from services.safety.judging import Assignment, judge_all, judge_one
from services.safety.language_model import GeneratedAnswer
from services.safety.policies import Policy, PolicyCatalogue
from services.safety.priced_guard import PricedGuard
from services.safety.reading import LabelReader
from services.safety.service import hosted
from tests.fakes.classifier import LABELS, FakeClassifier, answer, cost_of, description, guard_file, in_windows
from tests.fakes.guard import FakeGuard, prompts
from tests.fakes.language_model import (
    ANSWER_COST,
    SCORING_COST,
    FakeLanguageModel,
    guard_of,
    prompt_text,
    prompt_turn,
)
from tests.unit.safety.test_cascade import Cascade

LLAMA = "llama-guard-3"
COST = Usage(9, 0, 0.25, 9)


def away(cost: Usage = COST) -> FleetError:
    return with_usage(UnavailableError("away", reason="GUARD_UNAVAILABLE"), cost)


def paying(name: str, decision: Decision = Decision.SAFE, cost: Usage = COST) -> FakeGuard:
    guard = FakeGuard(name, lambda turn: guard.verdict(decision, usage=cost))
    return guard


def classifier_guard(classifier: FakeClassifier, name: str = "fake") -> ClassifierGuard:
    return ClassifierGuard(description(name), classifier, LabelReader(LABELS, guard_file()), timeout_seconds=30)


async def test_a_classifiers_windows_add_up_also_where_one_is_unusable() -> None:
    said = {
        "short": answer(0.1, num_tokens=5),
        "long": in_windows(answer(0.1, num_tokens=8), answer(0.9, num_tokens=4), answer(0.1, num_tokens=2)),
        "odd": in_windows(answer(0.1, num_tokens=8), answer(float("nan"), num_tokens=3)),
    }

    def classify(texts: Sequence[str]) -> Sequence[LabelledText]:
        return [said[text] for text in texts]

    verdicts = await classifier_guard(FakeClassifier(classify)).judge(prompts(*said))
    assert [each.decision for each in verdicts] == [Decision.SAFE, Decision.UNSAFE, Decision.ERROR]
    assert [each.usage.computed_prompt_tokens for each in verdicts] == [5, 14, 11]
    assert [each.usage.engine_seconds for each in verdicts] == pytest.approx([0.005, 0.014, 0.011])


async def test_a_generative_guard_pays_for_what_it_asked_whatever_comes_of_it() -> None:
    async def spent(model: FakeLanguageModel) -> Usage:
        [verdict] = await guard_of(LLAMA, model).judge([prompt_turn()])
        return verdict.usage

    assert await spent(FakeLanguageModel("safe")) == ANSWER_COST + SCORING_COST
    assert await spent(FakeLanguageModel("garbage")) == ANSWER_COST
    nan = FakeLanguageModel("safe")
    nan.likelihoods = (float("nan"), -1.0)
    assert await spent(nan) == ANSWER_COST + SCORING_COST
    broken = FakeLanguageModel("safe")
    broken.likelihoods = FailedPreconditionError("no", reason="BROKEN")
    assert await spent(broken) == ANSWER_COST


async def test_a_generative_guard_that_goes_away_tells_what_it_had_spent() -> None:
    gone = FakeLanguageModel("safe")
    gone.likelihoods = UnavailableError("away", reason="GUARD_UNAVAILABLE")
    with pytest.raises(UnavailableError) as caught:
        await guard_of(LLAMA, gone).judge([prompt_turn("a"), prompt_turn("b")])
    assert usage_of(caught.value) == ANSWER_COST + ANSWER_COST

    def answers(prompt: Prompt) -> str | BaseException:
        return UnavailableError("away") if "late" in prompt_text(prompt) else "safe"

    early, late = await guard_of(LLAMA, FakeLanguageModel(answers)).judge([prompt_turn("early"), prompt_turn("late")])
    assert (early.usage, late.usage) == (ANSWER_COST + SCORING_COST, Usage())


async def test_a_long_turn_pays_for_all_its_windows_and_for_the_answer_that_had_no_room() -> None:
    def answers(prompt: Prompt) -> str | GeneratedAnswer:
        text = prompt_text(prompt)
        if len(text) > 2500:
            return GeneratedAnswer("sa", False, len(text), 1, usage=Usage(1))
        return "safe"

    model = FakeLanguageModel(answers)
    [verdict] = await guard_of(LLAMA, model).judge([prompt_turn("word " * 500)])
    refused = len(model.prompts) - verdict.windows
    assert verdict.windows > 1
    assert verdict.usage.completion_tokens == verdict.windows * 6
    assert verdict.usage.prompt_tokens == verdict.windows * 80 + refused


async def test_a_cascade_adds_up_its_stages() -> None:
    made = Cascade(
        lambda turn: made.cheap.verdict(Decision.SAFE, float(turn.content), usage=COST),
        lambda turn: made.last.verdict(Decision.UNSAFE, 0.9, usage=ANSWER_COST),
    )
    sure, unsure = await made.guard.judge(prompts("0.1", "0.5"))
    assert (sure.usage, unsure.usage) == (COST, COST + ANSWER_COST)


async def test_what_a_stage_that_failed_had_spent_is_not_lost() -> None:
    made = Cascade(last=lambda turn: made.last.verdict(Decision.UNSAFE, 0.9, usage=ANSWER_COST))
    made.cheap.failure = away()
    first, second = await made.guard.judge(prompts("0.1", "0.5"))
    assert (first.usage, second.usage) == (COST + ANSWER_COST, ANSWER_COST)

    made = Cascade(lambda turn: made.cheap.verdict(Decision.SAFE, float(turn.content), usage=COST))
    made.last.failure = away(ANSWER_COST)
    with pytest.raises(UnavailableError) as caught:
        await made.guard.judge(prompts("0.1", "0.5"))
    assert usage_of(caught.value) == COST + COST + ANSWER_COST


PRICES = PriceTable(
    [Price(models="guards/cheap", usd_per_engine_second=0.0001), Price(engine="fake", usd_per_engine_second=0.01)]
)


async def test_computing_has_a_price_by_guard_and_engine() -> None:
    [turn] = prompts("x")
    known = Usage(prompt_tokens=9, cache_saved_tokens=9)
    prices = [
        (await PricedGuard(paying(name, cost=cost), PRICES).judge([turn]))[0].usage.cost_micro_usd
        for name, cost in (("cheap", COST), ("other", COST), ("other", known), ("other", Usage(engine_seconds=1e-9)))
    ]
    assert prices == [25, 2500, 0, 1]
    gone = paying("other")
    gone.failure = away()
    with pytest.raises(UnavailableError) as caught:
        await PricedGuard(gone, PRICES).judge([turn])
    assert usage_of(caught.value) == replace(COST, cost_micro_usd=2500)
    assert PricedGuard(gone, PRICES).about == gone.about
    assert await PricedGuard(gone, PRICES).is_ready()


async def test_a_policys_guards_are_paid_together() -> None:
    [turn] = prompts("x")
    guards = (paying("a"), paying("b", Decision.UNSAFE, ANSWER_COST))
    verdict = await judge_one(Assignment(turn, guards, Policy()))
    assert verdict.usage == COST + ANSWER_COST
    assert [each.usage for each in verdict.guard_verdicts] == [COST, ANSWER_COST]


@pytest.mark.parametrize("decision", [Decision.SAFE, Decision.UNSAFE])
async def test_a_guard_that_is_away_takes_nothing_from_what_the_others_cost(decision: Decision) -> None:
    [turn] = prompts("x")
    gone = FakeGuard("gone")
    gone.failure = away(SCORING_COST)
    [told, _] = await judge_all(
        [Assignment(turn, (gone, paying("b", decision, ANSWER_COST)), Policy()), Assignment(turn, (paying("c"),))]
    )
    # UNSAFE stands without the other guard; SAFE does not, and is an error.
    spent = told.usage if isinstance(told, Verdict) else usage_of(told)
    assert spent == SCORING_COST + ANSWER_COST
    assert isinstance(told, Verdict) is (decision is Decision.UNSAFE)


async def test_what_a_failed_request_cost_is_told_to_one_of_those_that_shared_it() -> None:
    gone = FakeGuard("gone")
    gone.failure = away()
    turns = prompts("x", "y", "z")
    outcomes = await judge_all([*(Assignment(each, (gone,)) for each in turns), Assignment(turns[0], (paying("c"),))])
    costs = [usage_of(each) if isinstance(each, FleetError) else each.usage for each in outcomes]
    assert costs == [COST, Usage(), Usage(), COST]


async def test_a_call_that_fails_tells_what_all_guards_had_spent() -> None:
    guards = FakeGuard("a"), FakeGuard("b")
    for each in guards:
        each.failure = away()
    with pytest.raises(UnavailableError) as caught:
        await judge_all([Assignment(prompts("x")[0], guards, Policy())])
    assert usage_of(caught.value) == COST + COST


async def test_a_verdict_and_a_status_tell_it_over_the_wire() -> None:
    gone = paying("gone")
    gone.failure = away()
    said = FakeClassifier(lambda texts: [answer(0.1, num_tokens=5) for _ in texts])
    catalogue = GuardCatalogue([classifier_guard(said), gone])

    def request(guard: str) -> Any:
        message = common_pb2.Message(role=common_pb2.ROLE_USER, content="x")
        conversation = common_pb2.Conversation(messages=[message])
        aspect = safety_pb2.ASPECT_PROMPT
        return safety_pb2.ClassifyRequest(conversation=conversation, aspect=aspect, guard=guard)

    async with serve_in_process(hosted(catalogue, PolicyCatalogue())) as channel:
        stub = safety_pb2_grpc.SafetyServiceStub(channel)
        requests = [request("guards/fake"), request("guards/gone")]
        response = await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=requests))
    verdict, failed = response.results[0].verdict, from_status(response.results[1].status)
    assert (verdict.usage.prompt_tokens, verdict.usage.computed_prompt_tokens) == (5, 5)
    assert verdict.usage.engine_time.ToMicroseconds() == cost_of(5).engine_seconds * 1e6
    assert usage_of(failed) == COST
