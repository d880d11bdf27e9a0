"""One verdict of several guards: any of them, or the majority of those that could know."""

from dataclasses import replace

import pytest

from services.safety.judgement import Decision, HazardCategory, Verdict
from services.safety.policies import (
    Combination,
    Policy,
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


def test_an_unmapped_hazard_that_is_outvoted_is_not_told_of_the_whole() -> None:
    verdicts = [classified(novel=0.9, name="a"), classified(name="b", violence=0.1), classified(name="c", violence=0.1)]
    verdict = apply_policy(Policy(combination=Combination.MAJORITY), verdicts)
    assert (verdict.decision, verdict.unmapped, verdict.guard_verdicts[0].unmapped) == (SAFE, False, True)


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
