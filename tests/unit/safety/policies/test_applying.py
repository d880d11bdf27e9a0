"""What one guard says under a policy: votes by hazards and thresholds, and nothing that fails open."""

import math
from dataclasses import replace

import pytest

from services.safety.judgement import CategoryScore, Decision, HazardCategory, Verdict
from services.safety.policies import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    TruncationHandling,
    apply_policy,
)
from tests.unit.safety.policies.verdicts import (
    CONTROVERSIAL,
    DRUGS,
    ERROR,
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


def test_without_rules_the_guards_own_verdict_stands_and_names_the_policy() -> None:
    policy = Policy(name="policies/p", version="3")
    own = classified(0.7, violence=0.6, drugs=0.2)
    verdict = apply_policy(policy, [own])
    assert verdict == replace(own, policy=policy.reference)
    assert verdict.policy is not None
    assert (verdict.policy.name, verdict.policy.version, len(verdict.policy.digest)) == ("policies/p", "3", 64)


@pytest.mark.parametrize(("threshold", "decision"), [(0.2, UNSAFE), (0.4, UNSAFE), (0.41, SAFE)])
def test_the_policys_threshold_replaces_the_guards(threshold: float, decision: Decision) -> None:
    verdict = apply_policy(Policy(threshold=threshold), [classified(0.4, violence=0.3, threshold=0.5)])
    assert (verdict.decision, verdict.threshold, verdict.unsafe_probability) == (decision, threshold, 0.4)
    assert [each.category for each in verdict.categories] == ([VIOLENCE] if threshold <= 0.3 else [])


def test_only_named_hazards_count() -> None:
    policy = Policy(hazards=hazards("vcr"))
    assert decided(policy, classified(drugs=0.9, violence=0.1)) is SAFE
    verdict = apply_policy(policy, [classified(drugs=0.9, violence=0.6)])
    assert (verdict.decision, verdict.unsafe_probability) == (UNSAFE, 0.6)
    assert [each.category for each in verdict.categories] == [VIOLENCE]


def test_a_native_code_counts_in_its_own_taxonomy_only() -> None:
    assert decided(Policy(hazards=hazards("t/insults")), classified(insults=0.6)) is UNSAFE
    assert decided(Policy(hazards=hazards("other/insults")), classified(insults=0.6)) is SAFE


def test_a_hazards_own_threshold_may_be_lower_than_the_guards() -> None:
    policy = Policy(hazards=hazards("ncr", vcr=0.2))
    below = classified(violence=0.3, drugs=0.3)
    assert below.decision is SAFE
    verdict = apply_policy(policy, [below])
    assert verdict.decision is UNSAFE
    assert [each.category for each in verdict.categories] == [VIOLENCE]
    assert verdict.threshold is None
    assert decided(policy, classified(violence=0.19, drugs=0.3)) is SAFE


def test_a_hazards_own_threshold_may_be_higher_than_the_guards() -> None:
    assert decided(Policy(hazards=hazards(vcr=0.9)), classified(violence=0.8)) is SAFE


def test_a_hazard_covers_its_subcategories_and_a_subcategory_what_is_told_no_finer() -> None:
    finances = HazardCategory("t", "1", "money", ailuminate_code="spc_fin")
    advice = HazardCategory("t", "1", "advice", ailuminate_code="spc")
    for code, category, decision in (
        ("spc", finances, UNSAFE),
        ("spc_fin", finances, UNSAFE),
        ("spc_hlt", finances, SAFE),
        ("spc_hlt", advice, UNSAFE),
    ):
        assert decided(Policy(hazards=hazards(code)), named(UNSAFE, category)) is decision


def test_a_named_hazard_without_a_probability_counts() -> None:
    verdict = apply_policy(Policy(hazards=hazards(vcr=0.99)), [named(UNSAFE, VIOLENCE)])
    assert (verdict.decision, verdict.unsafe_probability) == (UNSAFE, None)
    assert decided(Policy(hazards=hazards(vcr=0.99)), named(UNSAFE, DRUGS)) is SAFE


def test_unsafe_without_a_reason_and_what_no_taxonomy_has_always_count() -> None:
    policy = Policy(hazards=hazards("vcr"))
    assert decided(policy, classified(0.9, violence=0.1, drugs=0.4)) is UNSAFE
    assert decided(policy, named(UNSAFE)) is UNSAFE
    assert decided(policy, named(UNSAFE, unmapped=True)) is UNSAFE
    verdict = apply_policy(policy, [classified(novel=0.8, drugs=0.7)])
    assert (verdict.decision, verdict.unmapped, verdict.unsafe_probability) == (UNSAFE, True, 0.8)


def test_a_score_that_is_no_number_counts() -> None:
    broken = replace(classified(drugs=0.1), all_scores=(CategoryScore(VIOLENCE, math.nan),))
    assert decided(Policy(hazards=hazards("vcr")), broken) is UNSAFE
    assert decided(Policy(threshold=0.5), replace(broken, unsafe_probability=math.nan)) is UNSAFE


@pytest.mark.parametrize(
    ("handling", "decision"),
    [
        (ControversialHandling.KEEP, CONTROVERSIAL),
        (ControversialHandling.UNSAFE, UNSAFE),
        (ControversialHandling.SAFE, SAFE),
    ],
)
def test_the_middle_level(handling: ControversialHandling, decision: Decision) -> None:
    for policy in (Policy(on_controversial=handling), Policy(on_controversial=handling, hazards=hazards("vcr"))):
        assert decided(policy, named(CONTROVERSIAL, VIOLENCE)) is decision
        unmapped = named(CONTROVERSIAL, VIOLENCE, unmapped=True)
        assert decided(policy, unmapped) is (CONTROVERSIAL if decision is SAFE else decision)
    assert decided(Policy(on_controversial=handling, hazards=hazards("vcr")), named(CONTROVERSIAL, DRUGS)) is SAFE


def test_loose_is_for_what_the_guard_calls_controversial_not_for_what_a_threshold_makes_count() -> None:
    verdict = replace(named(CONTROVERSIAL, DRUGS), all_scores=(CategoryScore(VIOLENCE, 0.4),))
    loose = Policy(on_controversial=ControversialHandling.SAFE, hazards=hazards("ncr", vcr=0.3))
    assert decided(loose, verdict) is UNSAFE
    assert decided(loose, replace(verdict, all_scores=(CategoryScore(VIOLENCE, 0.2),))) is SAFE


def test_an_error_stays_one_or_becomes_unsafe_and_says_why() -> None:
    assert decided(Policy(), failed()) is ERROR
    assert decided(Policy(hazards=hazards("vcr"), threshold=0.9), failed()) is ERROR
    verdict = apply_policy(Policy(on_error=ErrorHandling.UNSAFE), [failed()])
    assert (verdict.decision, verdict.error_reason) == (UNSAFE, "GUARD_TIMEOUT")
    assert (verdict.unsafe_probability, verdict.categories) == (None, ())


@pytest.mark.parametrize("policy", [Policy(), Policy(hazards=hazards(vcr=0.5)), Policy(threshold=0.5)], ids=str)
def test_what_is_safe_in_part_is_an_error_unless_the_policy_lets_the_part_decide(policy: Policy) -> None:
    part = replace(classified(violence=0.1), truncated=True)
    verdict = apply_policy(policy, [part])
    assert (verdict.decision, verdict.error_reason, verdict.truncated) == (ERROR, "TEXT_TRUNCATED", True)
    assert verdict.unsafe_probability is None
    lenient = apply_policy(replace(policy, on_truncated=TruncationHandling.JUDGED_PART), [part])
    assert (lenient.decision, lenient.error_reason, lenient.unsafe_probability) == (SAFE, "", 0.1)
    assert decided(replace(policy, on_error=ErrorHandling.UNSAFE), part) is UNSAFE
    # A guard that read all of it does not speak for the one that did not; a hazard that was found stands.
    assert decided(policy, part, classified(violence=0.1, name="whole")) is ERROR
    assert decided(policy, replace(classified(violence=0.9), truncated=True)) is UNSAFE


def test_the_digest_is_of_the_rules_alone() -> None:
    plain = Policy(name="policies/a", version="1", description="x", hazards=hazards(vcr=0.2))
    same = Policy(name="policies/b", version="2", description="y", hazards=hazards(vcr=0.2))
    assert plain.reference.digest == same.reference.digest
    changed = [
        replace(plain, threshold=0.4),
        replace(plain, hazards=hazards(vcr=0.3)),
        replace(plain, guards=("guards/g",)),
        replace(plain, combination=Combination.MAJORITY),
        replace(plain, on_error=ErrorHandling.UNSAFE),
        replace(plain, on_controversial=ControversialHandling.SAFE),
        replace(plain, aspects=plain.aspects[:1]),
    ]
    digests = {each.reference.digest for each in [plain, *changed]}
    assert len(digests) == len(changed) + 1


def generative(probability: float | None, decision: Decision = SAFE, *categories: HazardCategory) -> Verdict:
    """Return what a guard says that has a probability of its verdict alone."""
    return replace(named(decision, *categories), unsafe_probability=probability)


@pytest.mark.parametrize(
    ("said", "known", "decision"),
    [
        (generative(0.40), (VIOLENCE, LETHAL), UNSAFE),
        (generative(0.25), (VIOLENCE, LETHAL), UNSAFE),
        (generative(0.24), (VIOLENCE, LETHAL), SAFE),
        (generative(0.40), (LETHAL,), SAFE),  # what it knows has a threshold of its own
        (generative(0.61), (LETHAL,), UNSAFE),
        (generative(0.40), (DRUGS,), SAFE),  # it knows none of these hazards
        (generative(0.40), (), UNSAFE),  # what tells nothing apart may speak of any hazard
        (generative(math.nan), (VIOLENCE,), UNSAFE),
        (generative(None), (VIOLENCE,), SAFE),
        (generative(0.9, UNSAFE, DRUGS), (VIOLENCE, DRUGS), SAFE),  # what it names explains it
        (classified(0.4, drugs=0.4, threshold=0.5), (VIOLENCE, DRUGS), SAFE),  # what it scores explains it
        (classified(0.4, drugs=0.3, threshold=0.5), (VIOLENCE, DRUGS), UNSAFE),
        (classified(0.4, violence=0.2, threshold=0.5), (VIOLENCE,), SAFE),  # it says how probable violence is
    ],
)
def test_a_hazard_without_a_probability_has_its_threshold_on_the_whole(
    said: Verdict, known: tuple[HazardCategory, ...], decision: Decision
) -> None:
    verdict = apply_policy(Policy(hazards=hazards(vcr=0.25, iwp=0.6)), [said], [known])
    assert (verdict.decision, verdict.categories) == (decision, ())
    if decision is UNSAFE:
        assert verdict.unsafe_probability is said.unsafe_probability


def test_a_middle_level_does_not_hide_what_reaches_a_threshold() -> None:
    policy = Policy(hazards=hazards(vcr=0.25), on_controversial=ControversialHandling.SAFE)
    assert apply_policy(policy, [generative(0.3, CONTROVERSIAL)], [(VIOLENCE,)]).decision is UNSAFE
