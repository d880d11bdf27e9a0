"""No verdict becomes milder by knowing less, and nothing fails open, whatever guards say and policies demand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.safety.combining import NOT_EXPLAINED, worst
from services.safety.judgement import Decision, HazardCategory, Verdict
from services.safety.policies import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    PolicyHazard,
    apply_policy,
)
from tests.unit.safety.policies.verdicts import (
    CONTROVERSIAL,
    DRUGS,
    ERROR,
    INSULTS,
    LETHAL,
    SAFE,
    UNSAFE,
    VIOLENCE,
    classified,
    decided,
    failed,
    hazards,
    named,
)

PROBABILITIES = st.floats(0, 1)
THRESHOLDS = st.one_of(st.none(), st.floats(0.01, 1))
CODES = st.sampled_from(["vcr", "ncr", "t/violence", "t/drugs", "t/insults", "hte"])
VERDICTS = st.one_of(
    st.builds(failed),
    st.builds(classified, PROBABILITIES, violence=PROBABILITIES, drugs=PROBABILITIES, novel=PROBABILITIES),
    st.builds(
        named,
        st.sampled_from([SAFE, UNSAFE, CONTROVERSIAL]),
        st.sampled_from([VIOLENCE, DRUGS, INSULTS]),
        unmapped=st.booleans(),
    ),
    st.builds(named, st.just(UNSAFE)),
)
HAZARDS = st.lists(st.builds(PolicyHazard, CODES, THRESHOLDS), max_size=4, unique_by=lambda each: each.code)
POLICIES = st.builds(
    Policy,
    threshold=THRESHOLDS,
    hazards=st.lists(st.builds(PolicyHazard, CODES, THRESHOLDS), max_size=4, unique_by=lambda each: each.code).map(
        tuple
    ),
    combination=st.sampled_from(Combination),
    on_error=st.sampled_from(ErrorHandling),
    on_controversial=st.sampled_from([ControversialHandling.KEEP, ControversialHandling.UNSAFE]),
)
WINDOWS = st.lists(VERDICTS, min_size=1, max_size=3)


def is_certain(verdict: Verdict) -> bool:
    return verdict.unmapped or (verdict.decision is UNSAFE and not verdict.categories)


@given(POLICIES, st.lists(WINDOWS, min_size=1, max_size=5))
def test_nothing_fails_open(policy: Policy, guards: list[list[Verdict]]) -> None:
    verdicts = [worst(windows) for windows in guards]
    verdict = apply_policy(policy, verdicts)
    errors = [windows for windows in guards if any(each.decision is ERROR for each in windows)]
    certain = [windows for windows in guards if any(map(is_certain, windows))]
    if policy.combination is Combination.ANY_UNSAFE:
        assert not errors or verdict.decision in (ERROR, UNSAFE)
        if policy.hazards:
            assert not certain or verdict.decision is not SAFE
    if 2 * len(errors) >= len(verdicts):
        assert verdict.decision in (ERROR, UNSAFE)
    assert (verdict.error_reason != "") == (bool(errors or certain) and verdict.decision is ERROR) or (
        policy.on_error is ErrorHandling.UNSAFE and verdict.decision is UNSAFE
    )
    assert verdict.decision is not ERROR or policy.on_error is ErrorHandling.ERROR
    if verdict.decision is SAFE:
        assert not verdict.categories


@pytest.mark.parametrize(
    ("other", "decision", "reason"),
    [
        (failed(), ERROR, "GUARD_TIMEOUT"),
        (named(UNSAFE), ERROR, NOT_EXPLAINED),
        (named(CONTROVERSIAL), ERROR, NOT_EXPLAINED),
        (named(SAFE), SAFE, ""),
        (named(UNSAFE, VIOLENCE), UNSAFE, ""),
    ],
)
def test_a_window_whose_hazard_does_not_count_does_not_hide_another(
    other: Verdict, decision: Decision, reason: str
) -> None:
    strict, plain = Policy(hazards=hazards("vcr")), Policy()
    for windows in ([named(UNSAFE, DRUGS), other], [other, named(UNSAFE, DRUGS)]):
        verdict = apply_policy(strict, [worst(windows)])
        assert (verdict.decision, verdict.error_reason) == (decision, reason)
        assert decided(plain, worst(windows)) is UNSAFE


def test_a_threshold_that_the_hazardous_window_does_not_reach_leaves_an_error() -> None:
    whole = worst([classified(violence=0.6), failed()])
    assert decided(Policy(threshold=0.5), whole) is UNSAFE
    assert decided(Policy(threshold=0.9), whole) is ERROR


def test_a_middle_level_that_nothing_explains_is_not_hidden_by_another() -> None:
    whole = worst([named(CONTROVERSIAL, DRUGS), named(CONTROVERSIAL)])
    assert decided(Policy(), whole) is CONTROVERSIAL
    assert decided(Policy(on_controversial=ControversialHandling.SAFE), whole) is SAFE
    assert decided(Policy(hazards=hazards("vcr")), whole) is ERROR


@given(POLICIES, st.lists(st.tuples(VERDICTS, st.sets(st.sampled_from([VIOLENCE, DRUGS, LETHAL]))), min_size=1))
def test_to_know_less_never_makes_a_majority_milder(
    policy: Policy, told: list[tuple[Verdict, set[HazardCategory]]]
) -> None:
    policy = replace(policy, combination=Combination.MAJORITY)
    verdicts = [verdict for verdict, _ in told]
    order = [SAFE, CONTROVERSIAL, ERROR, UNSAFE]
    by_all = decided(policy, *verdicts)
    assert order.index(apply_policy(policy, verdicts, [known for _, known in told]).decision) >= order.index(by_all)


@given(POLICIES, st.lists(VERDICTS, min_size=1, max_size=4), VERDICTS)
def test_one_more_guard_never_makes_any_unsafe_milder(policy: Policy, verdicts: list[Verdict], more: Verdict) -> None:
    strict = replace(policy, combination=Combination.ANY_UNSAFE)
    order = [SAFE, CONTROVERSIAL, ERROR, UNSAFE]
    fewer, all_of_them = decided(strict, *verdicts), decided(strict, *verdicts, more)
    assert order.index(all_of_them) >= order.index(fewer)
