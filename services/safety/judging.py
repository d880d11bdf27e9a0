"""Judges many turns with as few requests as possible, and keeps the failures of some away from the others."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.errors import FieldViolation, FleetError
from services.runtime.usage import usage_of, with_usage, without_usage
from services.safety.errors import invalid_field
from services.safety.guard import Guard
from services.safety.judgement import NO_USAGE, Decision, JudgedTurn, Verdict
from services.safety.policies import Policy, apply_policy, judged_whole


@dataclass(frozen=True, slots=True)
class Assignment:
    """A turn and who is to judge it.

    Attributes:
        turn: what is judged.
        guards: who judges; one, unless a policy asks for more.
        policy: what makes one verdict of theirs; None takes the guard's own.
    """

    turn: JudgedTurn
    guards: tuple[Guard, ...]
    policy: Policy | None = None

    def check(self) -> None:
        """Make sure that the guards judge such turns.

        Raises:
            InvalidArgumentError: one does not judge this aspect.
        """
        for guard in self.guards:
            about = guard.about
            if self.turn.aspect not in about.aspects:
                known = " and ".join(f"{aspect.value}s" for aspect in about.aspects)
                raise invalid_field("aspect", f"{about.name} judges {known} only", reason="ASPECT_NOT_JUDGED")

    def decide(self, verdicts: Sequence[Verdict]) -> Verdict:
        """Return the one verdict on the turn.

        Args:
            verdicts: of the guards, in their order.
        """
        if self.policy is None:
            return judged_whole(verdicts[0])
        return apply_policy(self.policy, verdicts, [guard.about.categories for guard in self.guards])


async def judge_all(assignments: Sequence[Assignment | FleetError]) -> list[Verdict | FleetError]:
    """Judge each assignment; what is an error already stays one, at its place.

    All turns of one guard go into one request. A guard that is away fails only the turns whose verdict hangs on it.

    Raises:
        FleetError: not a single turn could be judged because the guards are away: the whole call may be tried again.
    """
    guards: dict[str, Guard] = {}
    groups: dict[str, list[int]] = {}
    for index, each in enumerate(assignments):
        for guard in each.guards if isinstance(each, Assignment) else ():
            guards[guard.about.name] = guard
            groups.setdefault(guard.about.name, []).append(index)
    said: list[dict[str, Verdict | FleetError]] = [{} for _ in assignments]
    failures: list[FleetError] = []

    async def ask(name: str, indices: Sequence[int]) -> None:
        turns = [each.turn for index in indices if isinstance(each := assignments[index], Assignment)]
        try:
            outcomes: Sequence[Verdict | FleetError] = await guards[name].judge(turns)
        except FleetError as error:
            failures.append(error)
            # What was spent is told once.
            outcomes = [error, *[without_usage(error)] * (len(indices) - 1)]
        for index, outcome in zip(indices, outcomes, strict=True):
            said[index][name] = outcome

    async with asyncio.TaskGroup() as group:
        for name, indices in groups.items():
            group.create_task(ask(name, indices))
    if failures and len(failures) == len(groups):
        raise with_usage(failures[0], sum(map(usage_of, failures), NO_USAGE))
    return [
        each if isinstance(each, FleetError) else _decided(each, answers)
        for each, answers in zip(assignments, said, strict=True)
    ]


async def judge_one(assignment: Assignment) -> Verdict:
    """Judge one turn.

    Raises:
        FleetError: nobody judged it.
    """
    if len(assignment.guards) == 1:
        [guard] = assignment.guards
        [verdict] = await guard.judge([assignment.turn])
        return assignment.decide([verdict])
    [outcome] = await judge_all([assignment])
    if isinstance(outcome, FleetError):
        raise outcome
    return outcome


def inside_batch(error: FleetError, index: int) -> FleetError:
    """Return the same error with its fields named from the batch's point of view: ``requests[3].aspect``."""
    return inside(error, f"requests[{index}]")


def inside(error: FleetError, path: str) -> FleetError:
    """Return the same error with its fields named from the point of view of the message that holds its own."""
    if not error.field_violations:
        return error
    return type(error)(
        error.message,
        reason=error.reason,
        metadata=error.metadata,
        field_violations=[FieldViolation(f"{path}.{each.field}", each.description) for each in error.field_violations],
        retry_after_seconds=error.retry_after_seconds,
        quota_violations=error.quota_violations,
    )


def _decided(assignment: Assignment, answers: dict[str, Verdict | FleetError]) -> Verdict | FleetError:
    """Return the verdict on one turn.

    A guard that is away counts as one that could not judge. Where the others settle the matter all the same, their
    verdict stands; otherwise the error of the one that is away does: the turn may be asked about again.
    """
    verdicts: list[Verdict] = []
    away: FleetError | None = None
    for guard in assignment.guards:
        answer = answers[guard.about.name]
        if isinstance(answer, FleetError):
            away = away or answer
            answer = _not_judged(guard, assignment.turn, answer)
        verdicts.append(answer)
    if assignment.policy is None and away is not None:
        return away
    decided = assignment.decide(verdicts)
    # With a reason, the decision is ERROR, or UNSAFE because the policy takes errors for it.
    return with_usage(away, decided.usage) if away is not None and decided.error_reason else decided


def _not_judged(guard: Guard, turn: JudgedTurn, error: FleetError) -> Verdict:
    threshold = guard.about.default_threshold if turn.threshold is None else turn.threshold
    return Verdict(Decision.ERROR, guard.about.reference, threshold, error_reason=error.reason, usage=usage_of(error))
