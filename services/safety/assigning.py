"""Decides who judges a turn, by which policy, and refuses what does not fit together."""

from dataclasses import replace

from services.runtime.callers import current_caller
from services.runtime.security.audit import AuditLog
from services.safety.catalogue import GuardCatalogue
from services.safety.errors import PolicyNotApplicableError, invalid_field
from services.safety.guard import Guard
from services.safety.judgement import JudgedTurn
from services.safety.judging import Assignment
from services.safety.policies import Policy, PolicyCatalogue
from services.safety.policies.catalogue import check_applicable, guards_of
from services.safety.policies.policy import PolicyFieldError

_MOST_CHECKED = 1024
_MOST_TOLD = 4096


class Assigner:
    """Assigns turns to guards.

    Args:
        guards: that can judge.
        policies: that can be named.
        audit: is told of callers' own policies, each once a caller; None: nobody is.
    """

    def __init__(self, guards: GuardCatalogue, policies: PolicyCatalogue, audit: AuditLog | None = None) -> None:
        self._guards = guards
        self._policies = policies
        self._audit = audit
        self._told: set[tuple[str, str]] = set()
        self._checked: dict[tuple[str, tuple[str, ...]], tuple[Guard, ...]] = {}

    def assign(
        self, turn: JudgedTurn, *, guard: str = "", policy: str = "", inline: Policy | None = None
    ) -> Assignment:
        """Return who judges a turn, and how.

        Args:
            turn: what is judged.
            guard: resource name of the guard that is asked for; empty: what the policy says, or the default.
            policy: resource name of a policy; empty: none.
            inline: a policy of the caller's own; None: none.

        Raises:
            InvalidArgumentError: the request contradicts itself or the policy; names the field.
            NotFoundError: there is no guard or policy of that name; suggests the nearest.
            PolicyNotApplicableError: the named policy does not fit the guards of this service.
        """
        if inline is not None and policy:
            raise invalid_field("inline_policy", "give either policy or inline_policy", reason="POLICY_TWICE")
        applied = self._policies.find(policy, field="policy") if policy else inline
        if applied is None:
            assignment = Assignment(turn, (self._guards.choose(guard),))
        else:
            guards = self._guards_of(applied, guard)
            if turn.aspect not in applied.aspects:
                known = " and ".join(f"{aspect.value}s" for aspect in applied.aspects)
                raise invalid_field(
                    "aspect", f"{applied.name or 'the policy'} judges {known} only", reason="ASPECT_NOT_JUDGED"
                )
            assignment = Assignment(_at_threshold(turn, applied), guards, applied)
        assignment.check()
        if inline is not None and self._audit is not None:
            self._tell_of(inline, self._audit)
        return assignment

    def _tell_of(self, policy: Policy, audit: AuditLog) -> None:
        told = (current_caller(), policy.reference.digest)
        if told not in self._told:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told.add(told)
            audit.record("inline_policy_used", caller=told[0], digest=told[1])

    def _guards_of(self, policy: Policy, guard: str) -> tuple[Guard, ...]:
        asked = self._guards.choose(guard) if guard else None
        if asked is not None and policy.guards not in ((), (asked.about.name,)):
            raise invalid_field(
                "guard",
                f"the policy asks {', '.join(policy.guards)}; leave guard empty, or take another policy",
                reason="POLICY_CONTRADICTED",
            )
        key = (policy.reference.digest, policy.guards if asked is None else (asked.about.name,))
        if key not in self._checked:
            guards = self._checked_guards(policy, asked)
            if len(self._checked) >= _MOST_CHECKED:
                self._checked.clear()
            self._checked[key] = guards
        return self._checked[key]

    def _checked_guards(self, policy: Policy, asked: Guard | None) -> tuple[Guard, ...]:
        try:
            guards = guards_of(policy, self._guards) if asked is None else (asked,)
            check_applicable(policy, guards)
        except PolicyFieldError as error:
            if not policy.name:
                raise invalid_field(f"inline_policy.{error.field}", error.problem, reason="POLICY_INVALID") from error
            raise PolicyNotApplicableError(
                f"{policy.name} cannot be applied here: {error}; GetPolicy says so, too",
                metadata={"policy": policy.name, "field": error.field},
            ) from error
        return guards


def _at_threshold(turn: JudgedTurn, policy: Policy) -> JudgedTurn:
    """Return the turn with the threshold that its guards are to apply: the policy's, if it has one."""
    if turn.threshold is None:
        return turn if policy.threshold is None else replace(turn, threshold=policy.threshold)
    if policy.sets_thresholds and turn.threshold != policy.threshold:
        raise invalid_field(
            "threshold", "the policy sets thresholds; leave this one out, or the policy's", reason="POLICY_CONTRADICTED"
        )
    return turn
