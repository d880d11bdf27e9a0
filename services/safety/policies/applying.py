"""Applies a policy to guards' verdicts: a pure function that fails closed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from services.safety.combining import total_usage
from services.safety.judgement import CategoryScore, Decision, HazardCategory, Verdict
from services.safety.policies.hazards import matches
from services.safety.policies.policy import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    PolicyHazard,
    TruncationHandling,
)

UNEXPLAINED_ERROR: Final = "GUARD_FAILED"
TRUNCATED: Final = "TEXT_TRUNCATED"
# Above every probability.
_NO_THRESHOLD: Final = 2.0
_SEVERITY: Final = {Decision.SAFE: 0, Decision.CONTROVERSIAL: 1, Decision.ERROR: 2, Decision.UNSAFE: 3}
_FLAGGED: Final = (Decision.UNSAFE, Decision.CONTROVERSIAL)

Known = Collection[HazardCategory]
"""What a guard can tell apart."""


def apply_policy(policy: Policy, verdicts: Sequence[Verdict], known: Sequence[Known] | None = None) -> Verdict:
    """Return the one verdict that a policy makes of the verdicts of its guards on one turn.

    First each guard's verdict is judged by the policy's hazards and thresholds:

    - a named hazard counts from its own threshold on, or else from the policy's, or else from the guard's; named by
      the guard without a probability, it counts;
    - where the guard gives a named hazard no probability, its unsafe probability may be of that hazard: unless what it
      does name or score explains it, it is held against the lowest threshold of these hazards;
    - what the guard's taxonomy does not have counts, and so does UNSAFE that no category explains;
    - where no hazards are named, the policy's threshold is that on the guard's unsafe probability.

    SAFE of a part of a text is ERROR, unless the policy lets that part decide (see ``TruncationHandling``).

    Then these votes are combined (see ``Combination``): by majority those of all guards and, for each named hazard, of
    those that know it, since a guard cannot speak against what it does not know; the worst result counts. At last
    errors are handled (see ``ErrorHandling``).

    Args:
        policy: the rules.
        verdicts: one a guard, at least one, each made at the policy's overall threshold if that has one.
        known: the categories of each of these guards, in their order; None: each is taken to know what it spoke of, and
            to have a vote on every hazard.
    """
    ballots = _ballots(policy, verdicts, [None] * len(verdicts) if known is None else known)
    decisions = [_combined(policy.combination, [vote.decision for vote in ballot]) for ballot in ballots]
    decision = max(decisions, key=_SEVERITY.__getitem__)
    votes = ballots[decisions.index(decision)]
    decided = [vote for ballot, each in zip(ballots, decisions, strict=True) if each is decision for vote in ballot]
    deciding = next((vote for vote in votes if vote.decision is decision), votes[0])
    reason = ""
    if decision is Decision.ERROR:
        reason = deciding.error_reason or UNEXPLAINED_ERROR
        if policy.on_error is ErrorHandling.UNSAFE:
            decision = Decision.UNSAFE
    counts_categories = decision in _FLAGGED
    several = len(verdicts) > 1
    return replace(
        deciding,
        decision=decision,
        threshold=_common(vote.threshold for vote in ballots[0]),
        unsafe_probability=None if reason else _probability(policy.combination, votes),
        categories=_merged(decided) if counts_categories and not reason else (),
        unmapped=counts_categories and any(vote.unmapped for vote in decided),
        truncated=any(each.truncated for each in verdicts),
        windows=max(each.windows for each in verdicts),
        error_reason=reason,
        refusal=_first(each.refusal for each in verdicts),
        over_refusal=_first(each.over_refusal for each in verdicts),
        cached=all(each.cached for each in verdicts),
        all_scores=() if several else deciding.all_scores,
        policy=policy.reference,
        guard_verdicts=tuple(verdicts) if several else (),
        unjudged_reason=next((each.unjudged_reason for each in verdicts if each.unjudged_reason), ""),
        usage=total_usage(verdicts),
    )


def judged_whole(verdict: Verdict) -> Verdict:
    """Return the verdict, or ERROR in place of a SAFE that was said of a part of the text: nobody judged the rest."""
    if not verdict.truncated or verdict.decision is not Decision.SAFE:
        return verdict
    return replace(verdict, decision=Decision.ERROR, unsafe_probability=None, error_reason=TRUNCATED)


def _ballots(policy: Policy, verdicts: Sequence[Verdict], known: Sequence[Known | None]) -> list[list[Verdict]]:
    """Return the votes of all guards and, where a majority is to find each hazard, those of who knows it."""
    told = list(zip(verdicts, known, strict=True))
    ballots = [[_vote(policy, policy.hazards, verdict, knows) for verdict, knows in told]]
    if policy.combination is Combination.MAJORITY and len(told) > 1:
        for hazard in policy.hazards:
            votes = [(_vote(policy, (hazard,), verdict, knows), knows) for verdict, knows in told]
            # Of what it does not know a guard can only say UNSAFE: by what no category explains.
            ballot = [vote for vote, knows in votes if _has_vote(hazard, knows) or vote.decision is Decision.UNSAFE]
            ballots += [ballot] if ballot else []
    return ballots


def _has_vote(hazard: PolicyHazard, known: Known | None) -> bool:
    return known is None or any(matches(hazard.code, category) for category in known)


def _vote(policy: Policy, hazards: Sequence[PolicyHazard], verdict: Verdict, known: Known | None) -> Verdict:
    """Return a guard's verdict as the policy sees it when only these of its hazards count."""
    judged = _judged(policy, hazards, verdict, known)
    return judged_whole(judged) if policy.on_truncated is TruncationHandling.ERROR else judged


def _judged(policy: Policy, hazards: Sequence[PolicyHazard], verdict: Verdict, known: Known | None) -> Verdict:
    if verdict.decision is Decision.ERROR:
        return verdict
    judged = _by_hazards(policy, hazards, verdict, known) if hazards else _by_threshold(policy, verdict)
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


def _by_hazards(policy: Policy, hazards: Sequence[PolicyHazard], verdict: Verdict, known: Known | None) -> Verdict:
    """Let only these hazards count, each from its own threshold on."""
    base = _base_threshold(policy, verdict)
    limits = [(score, _limit(base, hazards, score.category)) for score in _scores(verdict)]
    counted = [(score, limit) for score, limit in limits if limit is not None]
    hits = tuple(
        score
        for score, limit in counted
        if _reaches(score.probability, limit) or (limit == _NO_THRESHOLD and score in verdict.categories)
    )
    is_flagged = verdict.decision in _FLAGGED
    # Unsafe without a category that explains it may be any hazard, a named one included.
    is_unexplained = is_flagged and not verdict.categories
    is_reached = _reaches_unexplained(base, hazards, verdict, known)
    counts_whole = is_unexplained or is_reached or verdict.unmapped
    # A guard with a middle level says how severe what it names is; what only a threshold makes count is UNSAFE.
    names = {each.category for each in verdict.categories}
    is_guards = is_flagged and not is_reached and all(hit.category in names for hit in hits)
    severity = verdict.decision if is_guards else Decision.UNSAFE
    decision = severity if hits or counts_whole else Decision.SAFE
    given = [each.probability for each, _ in counted if each.probability is not None and isfinite(each.probability)]
    return replace(
        verdict,
        decision=decision,
        # None where hazards have different ones.
        threshold=_common(base if each.threshold is None else each.threshold for each in hazards),
        unsafe_probability=verdict.unsafe_probability if counts_whole else max(given, default=None),
        categories=hits if decision is not Decision.SAFE else (),
    )


def _reaches_unexplained(
    base: float | None, hazards: Sequence[PolicyHazard], verdict: Verdict, known: Known | None
) -> bool:
    """Return whether the unsafe probability counts by itself: it may be of a hazard that was given none.

    What the guard names, or a score as large, explains it. A guard without categories may speak of any hazard.
    """
    overall = verdict.unsafe_probability
    if overall is None or (verdict.decision in _FLAGGED and verdict.categories):
        return False
    given = {each.category: each.probability for each in verdict.all_scores if each.probability is not None}
    if any(each >= overall for each in given.values()) or (known is None and given):
        return False
    if known:
        limits = [_limit(base, hazards, category) for category in known if category not in given]
    else:
        limits = [_NO_THRESHOLD if (own := each.threshold or base) is None else own for each in hazards]
    return _reaches(overall, min((each for each in limits if each is not None), default=_NO_THRESHOLD))


def _limit(base: float | None, hazards: Sequence[PolicyHazard], category: HazardCategory) -> float | None:
    """Return the probability from which on a category counts: the lowest of the hazards that cover it.

    None if it does not count; ``_NO_THRESHOLD`` if it counts where the guard itself names it.
    """
    general = _NO_THRESHOLD if base is None else base
    if not category.taxonomy:
        return general
    limits = [
        general if hazard.threshold is None else hazard.threshold
        for hazard in hazards
        if matches(hazard.code, category)
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
