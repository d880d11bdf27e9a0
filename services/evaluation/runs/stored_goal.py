"""How goals and decisions are kept in the list of runs: as plain values that JSON has."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from services.evaluation.runs.budget import Budget
from services.evaluation.runs.decisions import Answer, QuestionDecision, TaskDecision
from services.evaluation.runs.gates import Depth, Direction, Gate, Goal, GoalWish, Precision
from services.evaluation.runs.model_changes import ModelChange, TierChoice
from services.evaluation.runs.record import Escalation


def goal_to_row(goal: Goal) -> dict[str, Any]:
    """The goal as plain values."""
    return {**asdict(goal), "gates": _gates_to_row(goal.gates), "tier_choice": _choice_to_row(goal.tier_choice)}


def goal_from_row(row: Mapping[str, Any]) -> Goal:
    """The goal of ``goal_to_row``; what is absent has its default."""
    values = dict(row)
    values["gates"] = _gates_from_row(values.get("gates", ()))
    values["budget"] = Budget(**values.get("budget", {}))
    values["tier_choice"] = _choice_from_row(values.get("tier_choice"))
    values["depth"] = Depth(**values.get("depth", {}))
    return Goal(**values)


def escalation_to_row(escalation: Escalation | None) -> dict[str, Any] | None:
    """What the runs of several tiers have in common as plain values."""
    if escalation is None:
        return None
    wish = escalation.wish
    change = None if wish.change is None else wish.change.value
    return {**asdict(escalation), "wish": {**asdict(wish), "gates": _gates_to_row(wish.gates), "change": change}}


def escalation_from_row(row: Mapping[str, Any] | None) -> Escalation | None:
    """What ``escalation_to_row`` wrote."""
    if row is None:
        return None
    wish = dict(row["wish"])
    wish["gates"] = _gates_from_row(wish["gates"])
    wish["budget"] = Budget(**wish["budget"])
    wish["depth"] = Depth(**wish.get("depth", {}))
    wish["change"] = None if wish["change"] is None else ModelChange(wish["change"])
    return Escalation(
        **{**row, "wish": GoalWish(**wish), "tasks": tuple(row["tasks"]), "budget": Budget(**row["budget"])}
    )


def decision_to_row(decision: TaskDecision) -> dict[str, Any]:
    """The decision as plain values."""
    return {**asdict(decision), "questions": [_question_to_row(each) for each in decision.questions]}


def decision_from_row(row: Mapping[str, Any]) -> TaskDecision:
    """The decision of ``decision_to_row``."""
    return TaskDecision(**{**row, "questions": tuple(_question_from_row(each) for each in row["questions"])})


def _choice_to_row(choice: TierChoice | None) -> dict[str, Any] | None:
    return None if choice is None else {**asdict(choice), "change": choice.change.value}


def _choice_from_row(row: Mapping[str, Any] | None) -> TierChoice | None:
    return None if row is None else TierChoice(**{**row, "change": ModelChange(row["change"])})


def _gates_to_row(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    return [_gate_to_row(gate) for gate in gates]


def _gates_from_row(rows: Sequence[Mapping[str, Any]]) -> tuple[Gate, ...]:
    return tuple(_gate_from_row(row) for row in rows)


def _gate_to_row(gate: Gate) -> dict[str, Any]:
    return {**asdict(gate), "direction": gate.direction.value}


def _gate_from_row(row: Mapping[str, Any]) -> Gate:
    return Gate(**{**row, "direction": Direction(row["direction"])})


def _question_to_row(decision: QuestionDecision) -> dict[str, Any]:
    question = decision.question
    asked = _gate_to_row(question) if isinstance(question, Gate) else {"half_width": question.half_width}
    # A capital that is gone has the logarithm -inf, for which JSON has no word.
    evidence = {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in (
            ("log_evidence_pass", decision.log_evidence_pass),
            ("log_evidence_fail", decision.log_evidence_fail),
        )
    }
    return {**asdict(decision), **evidence, "question": asked, "answer": decision.answer.value}


def _question_from_row(row: Mapping[str, Any]) -> QuestionDecision:
    asked = row["question"]
    question = Precision(**asked) if "half_width" in asked else _gate_from_row(asked)
    return QuestionDecision(**{**row, "question": question, "answer": Answer(row["answer"])})
