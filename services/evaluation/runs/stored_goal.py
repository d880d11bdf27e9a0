"""How goals and decisions are kept in the list of runs: as plain values that JSON has."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.evaluation.runs.budget import Budget
from services.evaluation.runs.decisions import Answer, QuestionDecision, TaskDecision
from services.evaluation.runs.gates import Direction, Gate, Goal, Precision


def goal_to_row(goal: Goal) -> dict[str, Any]:
    """The goal as plain values."""
    return {**asdict(goal), "gates": [_gate_to_row(gate) for gate in goal.gates]}


def goal_from_row(row: Mapping[str, Any]) -> Goal:
    """The goal of ``goal_to_row``; what is absent has its default."""
    values = dict(row)
    values["gates"] = tuple(_gate_from_row(gate) for gate in values.get("gates", ()))
    values["budget"] = Budget(**values.get("budget", {}))
    return Goal(**values)


def decision_to_row(decision: TaskDecision) -> dict[str, Any]:
    """The decision as plain values."""
    return {**asdict(decision), "questions": [_question_to_row(each) for each in decision.questions]}


def decision_from_row(row: Mapping[str, Any]) -> TaskDecision:
    """The decision of ``decision_to_row``."""
    return TaskDecision(**{**row, "questions": tuple(_question_from_row(each) for each in row["questions"])})


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
