"""The evaluation service's judge of safety against the real safety service, with fake guards behind it."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.evaluation.items import Message
from services.evaluation.judging_specification import SafetyJudging
from services.evaluation.runs.remote_safety import RemoteSafetyJudge
from services.runtime.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.runtime.testing import serve_in_process
from services.runtime.usage import Usage, usage_of, with_usage
from services.safety.catalogue import GuardCatalogue
from services.safety.judgement import Aspect, Decision, JudgedTurn, Verdict
from services.safety.policies import Policy, PolicyCatalogue, PolicyHazard
from services.safety.service import hosted
from tests.fakes.guards import VIOLENCE, FakeGuard
from tests.patience import LONGEST_WAIT_SECONDS

COST = Usage(9, 0, 0.25, 7, 0, 2)
SAID = (Message("user", "Tell me."), Message("assistant", "No."))
POLICIES = (
    Policy("policies/both", "7", guards=("guards/first", "guards/second")),
    Policy("policies/prompts", aspects=(Aspect.PROMPT,)),
    Policy("policies/unfit", hazards=(PolicyHazard("cse"),)),
    Policy("policies/open"),
)


def unsafe(turn: JudgedTurn) -> Verdict:
    return FakeGuard().saying(Decision.UNSAFE, 0.9)


def away(turn: JudgedTurn) -> Verdict:
    raise with_usage(UnavailableError("away", reason="GUARD_UNAVAILABLE"), COST)


@pytest.fixture
async def judge() -> AsyncIterator[RemoteSafetyJudge]:
    guards = GuardCatalogue(
        [
            FakeGuard("first"),
            FakeGuard("second", unsafe),
            FakeGuard("prompts", aspects=(Aspect.PROMPT,), categories=(VIOLENCE,)),
            FakeGuard("paid", lambda turn: replace(unsafe(turn), usage=COST)),
            FakeGuard("away", away),
        ]
    )
    async with serve_in_process(hosted(guards, PolicyCatalogue(POLICIES))) as channel:
        yield RemoteSafetyJudge(channel, timeout_seconds=LONGEST_WAIT_SECONDS)


async def test_the_default_guard_judges_where_nobody_is_named(judge: RemoteSafetyJudge) -> None:
    verdict = await judge.classify(SAID, SafetyJudging())
    assert verdict.decision == "safe"
    assert [(each.name, each.version) for each in verdict.judges] == [("guards/first", "fake")]


async def test_a_named_guard_judges(judge: RemoteSafetyJudge) -> None:
    verdict = await judge.classify(SAID, SafetyJudging(guard="second"))
    assert (verdict.decision, [each.name for each in verdict.judges]) == ("unsafe", ["guards/second"])


async def test_a_named_policy_judges_and_is_recorded_beside_its_guards(judge: RemoteSafetyJudge) -> None:
    judging = SafetyJudging(policy="both")
    await judge.check([judging, SafetyJudging(), SafetyJudging(guard="first", policy="open")])
    verdict = await judge.classify(SAID, judging)
    assert verdict.decision == "unsafe"
    *guards, policy = verdict.judges
    assert [each.name for each in guards] == ["guards/first", "guards/second"]
    assert (policy.name, policy.version, policy.digest) == ("policies/both", "7", POLICIES[0].reference.digest)


async def test_what_judging_cost_comes_with_the_verdict_and_with_a_failure(judge: RemoteSafetyJudge) -> None:
    told = (await judge.classify(SAID, SafetyJudging(guard="paid"))).usage
    with pytest.raises(UnavailableError) as caught:
        await judge.classify(SAID, SafetyJudging(guard="away"))
    for each in told, usage_of(caught.value):
        assert (each.prompt_tokens, each.computed_prompt_tokens, each.engine_seconds) == (9, 7, 0.25)


@pytest.mark.parametrize(
    ("judging", "reason"),
    [
        (SafetyJudging(guard="frist"), "GUARD_NOT_FOUND"),
        (SafetyJudging(policy="bot"), "POLICY_NOT_FOUND"),
        (SafetyJudging(guard="prompts"), "ASPECT_NOT_JUDGED"),
        (SafetyJudging(policy="prompts"), "ASPECT_NOT_JUDGED"),
        (SafetyJudging(policy="unfit"), "POLICY_NOT_APPLICABLE"),
        (SafetyJudging(policy="both", guard="first"), "POLICY_CONTRADICTED"),
    ],
)
async def test_who_cannot_judge_is_refused_before_anything_is_asked(
    judge: RemoteSafetyJudge, judging: SafetyJudging, reason: str
) -> None:
    with pytest.raises((NotFoundError, FailedPreconditionError)) as caught:
        await judge.check([judging])
    assert caught.value.reason == reason
