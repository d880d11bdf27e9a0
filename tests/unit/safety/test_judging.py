"""Many turns for several guards, some of which are away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import FleetError, UnavailableError
from services.safety.judgement import Decision, Verdict
from services.safety.judging import Assignment, judge_all, judge_one
from services.safety.policies import Combination, ErrorHandling, Policy, apply_policy
from tests.fakes.guard import FakeGuard, prompts

AWAY = UnavailableError("away", reason="GUARD_UNAVAILABLE")
[TURN] = prompts("x")


def guard_of(name: str, decision: Decision | None) -> FakeGuard:
    """Return a guard that decides so; None is away."""
    guard = FakeGuard(name)
    if decision is None:
        guard.failure = AWAY
    else:
        guard = FakeGuard(name, lambda turn: guard.verdict(decision))
    return guard


def guards_of(decisions: list[Decision | None]) -> tuple[FakeGuard, ...]:
    return tuple(guard_of(f"g{number}", decision) for number, decision in enumerate(decisions))


async def outcome(policy: Policy, decisions: list[Decision | None]) -> Verdict | FleetError:
    # The other turn keeps the call from failing as a whole where all of this one's guards are away.
    other = Assignment(TURN, (FakeGuard("other"),))
    told, _ = await judge_all([Assignment(TURN, guards_of(decisions), policy), other])
    return told


async def test_safe_of_a_part_of_a_text_is_an_error_alone_and_in_a_batch() -> None:
    guard = FakeGuard("g", lambda turn: guard.verdict(Decision.SAFE, 0.1, truncated=True))
    alone = await judge_one(Assignment(TURN, (guard,)))
    batch = await judge_all([Assignment(TURN, (guard,))])
    assert batch == [alone]
    assert (alone.decision, alone.error_reason, alone.unsafe_probability) == (Decision.ERROR, "TEXT_TRUNCATED", None)


@pytest.mark.parametrize("on_error", ErrorHandling)
async def test_unsafe_stands_while_another_guard_is_away_and_safe_does_not(on_error: ErrorHandling) -> None:
    policy = Policy(on_error=on_error)
    told = await outcome(policy, [None, Decision.UNSAFE])
    assert isinstance(told, Verdict)
    assert (told.decision, told.error_reason, told.guard.name) == (Decision.UNSAFE, "", "guards/g1")
    assert [each.error_reason for each in told.guard_verdicts] == ["GUARD_UNAVAILABLE", ""]
    assert await outcome(policy, [None, Decision.SAFE]) is AWAY
    assert await outcome(policy, [None, None]) is AWAY


async def test_a_majority_stands_whatever_the_guard_that_is_away_would_say() -> None:
    policy = Policy(combination=Combination.MAJORITY)
    for others, decision in (
        ([Decision.SAFE, Decision.SAFE], Decision.SAFE),
        ([Decision.UNSAFE, Decision.UNSAFE], Decision.UNSAFE),
    ):
        told = await outcome(policy, [*others, None])
        assert isinstance(told, Verdict)
        assert told.decision is decision
    assert await outcome(policy, [Decision.SAFE, Decision.UNSAFE, None]) is AWAY


async def test_one_turn_alone_is_judged_alike() -> None:
    verdict = await judge_one(Assignment(TURN, guards_of([Decision.UNSAFE, None]), Policy()))
    assert verdict.decision is Decision.UNSAFE
    with pytest.raises(UnavailableError):
        await judge_one(Assignment(TURN, guards_of([Decision.SAFE, None]), Policy()))


DECISIONS = st.sampled_from(Decision)


@given(
    st.builds(Policy, combination=st.sampled_from(Combination), on_error=st.sampled_from(ErrorHandling)),
    st.lists(st.one_of(st.none(), DECISIONS), min_size=2, max_size=5),
    st.data(),
)
async def test_a_verdict_without_a_guard_is_the_one_with_it_whatever_it_would_have_said(
    policy: Policy, decisions: list[Decision | None], data: st.DataObject
) -> None:
    told = await outcome(policy, decisions)
    if isinstance(told, FleetError):
        assert told is AWAY
        assert None in decisions
        return
    imagined = [data.draw(DECISIONS) if each is None else each for each in decisions]
    guards = guards_of(list(imagined))
    whole = apply_policy(policy, [guard.verdict(each) for guard, each in zip(guards, imagined, strict=True)])
    assert told.decision is whole.decision
