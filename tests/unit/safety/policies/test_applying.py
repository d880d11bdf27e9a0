"""One verdict of several: votes by hazards and thresholds, combinations, and nothing that fails open."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.safety.combining import NOT_EXPLAINED, worst
from services.safety.judgement import CategoryScore, Decision, GuardReference, HazardCategory, Verdict
from services.safety.policies import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    PolicyHazard,
    TruncationHandling,
    apply_policy,
)

SAFE, UNSAFE, CONTROVERSIAL, ERROR = Decision.SAFE, Decision.UNSAFE, Decision.CONTROVERSIAL, Decision.ERROR
VIOLENCE = HazardCategory("t", "1", "violence", ailuminate_code="vcr")
DRUGS = HazardCategory("t", "1", "drugs", ailuminate_code="ncr")
INSULTS = HazardCategory("t", "1", "insults")
NOVEL = HazardCategory("", "", "novel")


def guard(name: str = "g") -> GuardReference:
    return GuardReference(f"guards/{name}", "w" * 64, "t" * 64, "c" * 64, "fake", "float32")


def classified(
    overall: float | None = None, *, threshold: float = 0.5, name: str = "g", **probabilities: float
) -> Verdict:
    """Return what a classifier with four labels says."""
    known = {"violence": VIOLENCE, "drugs": DRUGS, "insults": INSULTS, "novel": NOVEL}
    scores = tuple(CategoryScore(known[code], value) for code, value in probabilities.items())
    highest = max([overall or 0.0, *probabilities.values()])
    reached = tuple(each for each in scores if each.probability is not None and each.probability >= threshold)
    return Verdict(
        decision=UNSAFE if highest >= threshold else SAFE,
        guard=guard(name),
        threshold=threshold,
        unsafe_probability=highest,
        categories=reached,
        unmapped=any(each.category is NOVEL for each in reached),
        all_scores=scores,
    )


def named(decision: Decision, *categories: HazardCategory, name: str = "g", unmapped: bool = False) -> Verdict:
    """Return what a guard says that names categories without probabilities."""
    scores = tuple(CategoryScore(each, None) for each in categories)
    return Verdict(decision, guard(name), None, categories=scores, unmapped=unmapped)


def failed(reason: str = "GUARD_TIMEOUT", name: str = "g") -> Verdict:
    return Verdict(ERROR, guard(name), 0.5, error_reason=reason)


def hazards(*codes: str, **thresholds: float) -> tuple[PolicyHazard, ...]:
    return (
        *(PolicyHazard(code) for code in codes),
        *(PolicyHazard(code, value) for code, value in thresholds.items()),
    )


def decided(policy: Policy, *verdicts: Verdict) -> Decision:
    return apply_policy(policy, verdicts).decision


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


BY_LETTER = {
    "u": classified(violence=0.9, name="u"),
    "s": classified(violence=0.1, name="s"),
    "c": named(CONTROVERSIAL, DRUGS, name="c"),
    "e": failed(name="e"),
}


@pytest.mark.parametrize(
    ("votes", "any_unsafe", "majority"),
    [
        ("s", SAFE, SAFE),
        ("su", UNSAFE, UNSAFE),  # a tie fails closed
        ("ssu", UNSAFE, SAFE),
        ("suu", UNSAFE, UNSAFE),
        ("se", ERROR, ERROR),
        ("sse", ERROR, SAFE),
        ("sue", UNSAFE, ERROR),
        ("uue", UNSAFE, UNSAFE),
        ("sssue", UNSAFE, SAFE),
        ("sc", CONTROVERSIAL, CONTROVERSIAL),
        ("ssc", CONTROVERSIAL, SAFE),
        ("scu", UNSAFE, CONTROVERSIAL),
        ("sce", ERROR, ERROR),
        ("sscee", ERROR, ERROR),
        ("sssse", ERROR, SAFE),
        ("ccse", ERROR, CONTROVERSIAL),
        ("eee", ERROR, ERROR),
    ],
)
def test_combinations(votes: str, any_unsafe: Decision, majority: Decision) -> None:
    verdicts = [BY_LETTER[each] for each in votes]
    assert decided(Policy(), *verdicts) is any_unsafe
    assert decided(Policy(combination=Combination.MAJORITY), *verdicts) is majority


def test_several_guards_are_told_one_by_one_and_the_deciding_one_is_named() -> None:
    verdicts = [
        replace(classified(violence=0.1, name="first"), cached=True),
        replace(classified(violence=0.9, drugs=0.6, name="second"), truncated=True, refusal=False),
        classified(violence=0.7, name="third"),
    ]
    verdict = apply_policy(Policy(), verdicts)
    assert verdict.guard.name == "guards/second"
    assert verdict.guard_verdicts == tuple(verdicts)
    assert (verdict.truncated, verdict.cached, verdict.refusal, verdict.over_refusal) == (True, False, False, None)
    assert [(each.category, each.probability) for each in verdict.categories] == [(VIOLENCE, 0.9), (DRUGS, 0.6)]
    assert (verdict.unsafe_probability, verdict.threshold) == (0.9, 0.5)
    assert apply_policy(Policy(combination=Combination.MAJORITY), verdicts).unsafe_probability == 0.7


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


def test_an_unmapped_hazard_that_is_outvoted_is_not_told_of_the_whole() -> None:
    verdicts = [classified(novel=0.9, name="a"), classified(name="b", violence=0.1), classified(name="c", violence=0.1)]
    verdict = apply_policy(Policy(combination=Combination.MAJORITY), verdicts)
    assert (verdict.decision, verdict.unmapped, verdict.guard_verdicts[0].unmapped) == (SAFE, False, True)


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


LETHAL = HazardCategory("v", "1", "S1", ailuminate_code="iwp")


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


MAJORITY = Policy(combination=Combination.MAJORITY, hazards=hazards("vcr", "iwp"))
BOTH, ONE = (VIOLENCE, LETHAL), (VIOLENCE,)
WEAPONS = named(UNSAFE, LETHAL, name="w")


@pytest.mark.parametrize(
    ("verdicts", "known", "decision"),
    [
        ((WEAPONS, named(SAFE), named(SAFE)), (BOTH, ONE, ONE), UNSAFE),  # nobody else could know it
        ((WEAPONS, named(SAFE), named(SAFE)), (BOTH, (), ()), UNSAFE),
        ((WEAPONS, named(SAFE), named(SAFE)), (BOTH, BOTH, ONE), UNSAFE),  # a tie fails closed
        ((WEAPONS, named(SAFE), named(SAFE)), (BOTH, BOTH, BOTH), SAFE),
        ((failed(), named(SAFE), named(SAFE)), (BOTH, ONE, ONE), ERROR),
        ((failed(), named(SAFE), named(SAFE)), (BOTH, BOTH, BOTH), SAFE),
        ((named(SAFE), failed(), named(SAFE)), (BOTH, ONE, ONE), SAFE),  # what failed is outvoted where it has a vote
        # UNSAFE that nothing explains may be any hazard, and half of all guards found one.
        ((named(UNSAFE), named(SAFE), named(SAFE)), ((), (LETHAL,), ONE), UNSAFE),
        ((WEAPONS, named(UNSAFE, VIOLENCE), named(SAFE)), (BOTH, BOTH, BOTH), UNSAFE),
        ((replace(named(SAFE), truncated=True), named(SAFE), named(SAFE)), (BOTH, ONE, ONE), ERROR),
    ],
)
def test_no_guard_outvotes_another_on_what_it_cannot_know(
    verdicts: tuple[Verdict, ...], known: tuple[tuple[HazardCategory, ...], ...], decision: Decision
) -> None:
    verdict = apply_policy(MAJORITY, verdicts, known)
    assert verdict.decision is decision
    if decision is UNSAFE and verdicts[0] is WEAPONS:
        assert LETHAL in {each.category for each in verdict.categories}
        assert verdict.guard.name == "guards/w"


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
