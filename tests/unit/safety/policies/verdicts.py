"""Verdicts of guards as the tests of policies make them."""

from services.safety.judgement import CategoryScore, Decision, GuardReference, HazardCategory, Verdict
from services.safety.policies import (
    Policy,
    PolicyHazard,
    apply_policy,
)

SAFE, UNSAFE, CONTROVERSIAL, ERROR = Decision.SAFE, Decision.UNSAFE, Decision.CONTROVERSIAL, Decision.ERROR
VIOLENCE = HazardCategory("t", "1", "violence", ailuminate_code="vcr")
DRUGS = HazardCategory("t", "1", "drugs", ailuminate_code="ncr")
INSULTS = HazardCategory("t", "1", "insults")
NOVEL = HazardCategory("", "", "novel")
LETHAL = HazardCategory("v", "1", "S1", ailuminate_code="iwp")


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
