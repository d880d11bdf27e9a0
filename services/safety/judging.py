"""Judges many turns with as few requests as possible, and keeps the failures of some away from the others."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.errors import FieldViolation, FleetError
from services.safety.errors import invalid_field
from services.safety.guard import Guard
from services.safety.judgement import JudgedTurn, Verdict


@dataclass(frozen=True, slots=True)
class Assignment:
    """A turn and the guard that is to judge it."""

    turn: JudgedTurn
    guard: Guard

    def check(self) -> None:
        """Make sure that the guard judges such turns.

        Raises:
            InvalidArgumentError: it does not judge this aspect.
        """
        about = self.guard.about
        if self.turn.aspect not in about.aspects:
            known = " and ".join(f"{aspect.value}s" for aspect in about.aspects)
            raise invalid_field("aspect", f"{about.name} judges {known} only", reason="ASPECT_NOT_JUDGED")


async def judge_all(assignments: Sequence[Assignment | FleetError]) -> list[Verdict | FleetError]:
    """Judge each assignment; what is an error already stays one, at its place.

    All turns of one guard go into one request. A guard that is away fails its own turns only.

    Raises:
        FleetError: not a single turn could be judged because the guards are away: the whole call may be tried again.
    """
    results: list[Verdict | FleetError | None] = [
        each if isinstance(each, FleetError) else None for each in assignments
    ]
    groups: dict[str, list[int]] = {}
    guards: dict[str, Guard] = {}
    for index, each in enumerate(assignments):
        if isinstance(each, Assignment):
            guards[each.guard.about.name] = each.guard
            groups.setdefault(each.guard.about.name, []).append(index)
    failures: list[FleetError] = []

    async def judge_group(name: str, indices: Sequence[int]) -> None:
        turns = [each.turn for index in indices if isinstance(each := assignments[index], Assignment)]
        try:
            outcomes: Sequence[Verdict | FleetError] = await guards[name].judge(turns)
        except FleetError as error:
            failures.append(error)
            outcomes = [error] * len(indices)
        for index, outcome in zip(indices, outcomes, strict=True):
            results[index] = outcome

    async with asyncio.TaskGroup() as group:
        for name, indices in groups.items():
            group.create_task(judge_group(name, indices))
    if failures and len(failures) == len(groups):
        raise failures[0]
    return [result for result in results if result is not None]


def inside_batch(error: FleetError, index: int) -> FleetError:
    """Return the same error with its fields named from the batch's point of view: ``requests[3].aspect``."""
    if not error.field_violations:
        return error
    return type(error)(
        error.message,
        reason=error.reason,
        metadata=error.metadata,
        field_violations=[
            FieldViolation(f"requests[{index}].{each.field}", each.description) for each in error.field_violations
        ],
        retry_after_seconds=error.retry_after_seconds,
        quota_violations=error.quota_violations,
    )
