"""Applies a policy to guards' verdicts: a pure function that fails closed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from services.safety.judgement import CategoryScore, Decision, Verdict
from services.safety.policies.hazards import matches
from services.safety.policies.policy import Combination, ControversialHandling, ErrorHandling, Policy

UNEXPLAINED_ERROR: Final = "GUARD_FAILED"
# Above every probability.
_NO_THRESHOLD: Final = 2.0
_SEVERITY: Final = {Decision.SAFE: 0, Decision.CONTROVERSIAL: 1, Decision.ERROR: 2, Decision.UNSAFE: 3}


def apply_policy(policy: Policy, verdicts: Sequence[Verdict]) -> Verdict:
    """Return the one verdict that a policy makes of the verdicts of its guards on one turn.

    First each guard's verdict is judged by the policy's hazards and thresholds:

    - a named hazard counts from its own threshold on, or else from the policy's, or else from the guard's; named by
      the guard without a probability, it counts;
    - what the guard's taxonomy does not have counts, and so does UNSAFE that no category explains;
    - where no hazards are named, the policy's threshold is that on the guard's unsafe probability.

    Then these votes are combined (see ``Combination``), and at last errors are handled (see ``ErrorHandling``).

    Args:
        policy: the rules.
        verdicts: one a guard, at least one, each made at the policy's overall threshold if that has one.
    """
    votes = [_vote(policy, verdict) for verdict in verdicts]
    decision = _combined(policy.combination, [vote.decision for vote in votes])
    deciding = next((vote for vote in votes if vote.decision is decision), votes[0])
    reason = ""
    if decision is Decision.ERROR:
        reason = deciding.error_reason or UNEXPLAINED_ERROR
        if policy.on_error is ErrorHandling.UNSAFE:
            decision = Decision.UNSAFE
    counts_categories = decision in (Decision.UNSAFE, Decision.CONTROVERSIAL)
    several = len(votes) > 1
    return replace(
        deciding,
        decision=decision,
        threshold=_common(vote.threshold for vote in votes),
        unsafe_probability=None if reason else _probability(policy.combination, votes),
        categories=_merged(votes) if counts_categories and not reason else (),
        unmapped=counts_categories and any(vote.unmapped for vote in votes),
        truncated=any(vote.truncated for vote in votes),
        windows=max(vote.windows for vote in votes),
        error_reason=reason,
        refusal=_first(vote.refusal for vote in votes),
        over_refusal=_first(vote.over_refusal for vote in votes),
        cached=all(vote.cached for vote in votes),
        all_scores=() if several else deciding.all_scores,
        policy=policy.reference,
        guard_verdicts=tuple(verdicts) if several else (),
    )


def _vote(policy: Policy, verdict: Verdict) -> Verdict:
    """Return a guard's verdict as the policy sees it."""
    if verdict.decision is Decision.ERROR:
        return verdict
    judged = _by_hazards(policy, verdict) if policy.hazards else _by_threshold(policy, verdict)
    if verdict.unjudged_reason and _SEVERITY[judged.decision] < _SEVERITY[verdict.decision]:
        # What decided does not count, and what else there may be nobody has judged.
        reason = verdict.unjudged_reason
        return replace(judged, decision=Decision.ERROR, unsafe_probability=None, categories=(), error_reason=reason)
    if judged.decision is Decision.CONTROVERSIAL:
        if policy.on_controversial is ControversialHandling.UNSAFE:
            return replace(judged, decision=Decision.UNSAFE)
        # Loose is for the guard's middle level alone: what its taxonomy does not have still fails closed.
        if policy.on_controversial is ControversialHandling.SAFE and not judged.unmapped:
            return replace(judged, decision=Decision.SAFE, categories=())
    return judged


def _by_threshold(policy: Policy, verdict: Verdict) -> Verdict:
    """Apply the policy's overall threshold, where there is one and a probability to compare with it."""
    probability, threshold = verdict.unsafe_probability, policy.threshold
    if threshold is None or probability is None or verdict.decision is Decision.CONTROVERSIAL:
        return verdict
    if _reaches(probability, threshold) or verdict.unmapped:
        reached = tuple(each for each in _scores(verdict) if _reaches(each.probability, threshold))
        return replace(verdict, decision=Decision.UNSAFE, threshold=threshold, categories=reached)
    return replace(verdict, decision=Decision.SAFE, threshold=threshold, categories=())


def _by_hazards(policy: Policy, verdict: Verdict) -> Verdict:
    """Let only the named hazards count, each from its own threshold on."""
    base = _base_threshold(policy, verdict)
    limits = [(score, _limit(policy, verdict, score)) for score in _scores(verdict)]
    counted = [(score, limit) for score, limit in limits if limit is not None]
    hits = tuple(
        score
        for score, limit in counted
        if _reaches(score.probability, limit) or (limit == _NO_THRESHOLD and score in verdict.categories)
    )
    is_flagged = verdict.decision in (Decision.UNSAFE, Decision.CONTROVERSIAL)
    # Unsafe without a category that explains it may be any hazard, a named one included.
    is_unexplained = is_flagged and not verdict.categories
    counts_whole = is_unexplained or verdict.unmapped
    # A guard with a middle level says how severe what it names is; what only a threshold makes count is UNSAFE.
    is_guards = is_flagged and all(hit.category in {each.category for each in verdict.categories} for hit in hits)
    severity = verdict.decision if is_guards else Decision.UNSAFE
    decision = severity if hits or counts_whole else Decision.SAFE
    given = [each.probability for each, _ in counted if each.probability is not None and isfinite(each.probability)]
    return replace(
        verdict,
        decision=decision,
        # None where hazards have different ones.
        threshold=_common(base if each.threshold is None else each.threshold for each in policy.hazards),
        unsafe_probability=verdict.unsafe_probability if counts_whole else max(given, default=None),
        categories=hits if decision is not Decision.SAFE else (),
    )


def _limit(policy: Policy, verdict: Verdict, score: CategoryScore) -> float | None:
    """Return the probability from which on a category counts: the lowest of the hazards that cover it.

    None if it does not count; ``_NO_THRESHOLD`` if it counts where the guard itself names it.
    """
    base = _base_threshold(policy, verdict)
    general = _NO_THRESHOLD if base is None else base
    if not score.category.taxonomy:
        return general
    limits = [
        general if hazard.threshold is None else hazard.threshold
        for hazard in policy.hazards
        if matches(hazard.code, score.category)
    ]
    return min(limits, default=None)


def _base_threshold(policy: Policy, verdict: Verdict) -> float | None:
    return verdict.threshold if policy.threshold is None else policy.threshold


def _reaches(probability: float | None, threshold: float) -> bool:
    """Return whether a probability counts. One that is missing, or no number, does."""
    return probability is None or not probability < threshold


def _scores(verdict: Verdict) -> tuple[CategoryScore, ...]:
    """Return every category that the guard spoke of, most probable first; those without a probability lead."""
    known = {each.category for each in verdict.all_scores}
    return (*(each for each in verdict.categories if each.category not in known), *verdict.all_scores)


def _combined(combination: Combination, decisions: Sequence[Decision]) -> Decision:
    if combination is Combination.ANY_UNSAFE:
        return max(decisions, key=_SEVERITY.__getitem__)
    total = len(decisions)
    unsafe, errors = decisions.count(Decision.UNSAFE), decisions.count(Decision.ERROR)
    controversial = decisions.count(Decision.CONTROVERSIAL)
    # At least half: a tie fails closed.
    if 2 * unsafe >= total:
        return Decision.UNSAFE
    if 2 * (unsafe + errors) >= total:
        return Decision.ERROR
    if 2 * (unsafe + controversial) >= total:
        return Decision.CONTROVERSIAL
    return Decision.ERROR if 2 * (unsafe + controversial + errors) >= total else Decision.SAFE


def _probability(combination: Combination, votes: Sequence[Verdict]) -> float | None:
    """Return the largest probability, or by majority the one that at least half of the guards reach."""
    given = sorted((vote.unsafe_probability for vote in votes if vote.unsafe_probability is not None), reverse=True)
    if len(given) < len(votes):
        return None
    return given[0 if combination is Combination.ANY_UNSAFE else (len(given) + 1) // 2 - 1]


def _merged(votes: Sequence[Verdict]) -> tuple[CategoryScore, ...]:
    """Return the categories of all votes, each once with its largest probability, most probable first."""
    found: dict[object, CategoryScore] = {}
    for vote in votes:
        for score in vote.categories:
            kept = found.get(score.category)
            if kept is None or (score.probability or 0.0) > (kept.probability or 0.0):
                found[score.category] = score
    return tuple(sorted(found.values(), key=lambda each: -1.0 if each.probability is None else 1 - each.probability))


def _common(values: Iterable[float | None]) -> float | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _first(values: Iterable[bool | None]) -> bool | None:
    return next((value for value in values if value is not None), None)
