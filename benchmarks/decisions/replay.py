"""Replays one model's results as if they came in one by one, and asks every kind of question of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions.matrices import Matrix
from services.aggregation.sequential.predictions import Predictor
from services.aggregation.sequential.questions import Decision, DecisionState, GateRule, PrecisionRule, Question
from services.aggregation.sequential.task import SequentialTask

ALPHA: Final = 0.05
HALF_WIDTH: Final = 0.02
MARGIN: Final = 0.05
RULES: Final = ("uniform", "prev", "prev_neyman")
_PIECES: Final = 200


@dataclass(slots=True)
class Findings:
    """What replays came to: shares of the items, and whether answers were wrong.

    Attributes:
        gate: share until a gate five points away is decided.
        precision: share until the range is as narrow as wanted.
        planned: share until the range of a planned look, which is not certified, is that narrow.
        a_vs_b: share until it is decided whether the model beats its predecessor.
        boundary_passed: a gate just above the mean passed.
        gate_wrong: the gate five points away was decided wrongly.
        missed: the range did not hold the mean at some time.
        planned_missed: that of the planned look did not hold it.
        a_vs_b_wrong: the comparison was decided wrongly.
    """

    gate: list[float] = field(default_factory=list)
    precision: list[float] = field(default_factory=list)
    planned: list[float] = field(default_factory=list)
    a_vs_b: list[float] = field(default_factory=list)
    boundary_passed: list[bool] = field(default_factory=list)
    gate_wrong: list[bool] = field(default_factory=list)
    missed: list[bool] = field(default_factory=list)
    planned_missed: list[bool] = field(default_factory=list)
    a_vs_b_wrong: list[bool] = field(default_factory=list)

    def extend(self, other: "Findings") -> None:
        """Add another's."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class Case:
    """One model of a matrix, and what is asked of it.

    Attributes:
        scores: its results, [items].
        is_whole: they are 0 or 1.
        rival: its predecessor's mean, if that is far enough from its own; else None.
        predictor: from the history.
    """

    scores: NDArray[np.float64]
    is_whole: bool
    rival: float | None
    predictor: Predictor


def case_of(matrix: Matrix, model: int) -> Case:
    """Prepare the replays of a model that has a predecessor."""
    history = matrix.history(model)
    rival = float(history.scores[-1].mean()) if matrix.is_comparable(model) else None
    return Case(matrix.scores[model], matrix.is_whole, rival, Predictor(history))


def replay(case: Case, rule: str, seed: int) -> Findings:
    """Replay one model once; the gate lies above its mean for even seeds and below for odd ones, if there is room."""
    mean, size = float(case.scores.mean()), len(case.scores)
    away = MARGIN if seed % 2 == 0 else -MARGIN
    far = mean + away if 0 < mean + away < 1 else mean - away
    thresholds = [far, mean + 1 / size] + ([] if case.rival is None else [case.rival])
    questions: list[Question] = [GateRule(each, false_pass=ALPHA, false_fail=ALPHA) for each in thresholds]
    questions.append(PrecisionRule(HALF_WIDTH, ALPHA))
    task = SequentialTask(size, seed, questions, whole_scores=case.is_whole)
    planned_after = _run(task, case, rule)
    found, decisions = Findings(), task.decisions
    lower, upper = task.claimed_range()
    found.precision.append(_share(decisions[-1], size))
    found.missed.append(not lower - 1e-9 <= mean <= upper + 1e-9)
    found.gate.append(_share(decisions[0], size))
    found.gate_wrong.append(_is_wrong(decisions[0], mean >= far))
    found.boundary_passed.append(decisions[1].state is DecisionState.PASSED)
    found.planned.append(planned_after[0] / size)
    found.planned_missed.append(abs(planned_after[1] - mean) > HALF_WIDTH)
    if case.rival is not None:
        found.a_vs_b.append(_share(decisions[2], size))
        found.a_vs_b_wrong.append(_is_wrong(decisions[2], mean >= case.rival))
    return found


def _run(task: SequentialTask, case: Case, rule: str) -> tuple[int, float]:
    """Draw until all questions are answered; return after how many draws a planned look would do, and its estimate."""
    items: list[NDArray[np.int64]] = []
    planned: tuple[int, float] | None = None
    case.predictor.forget()
    piece = max(16, len(case.scores) // _PIECES)
    while not task.is_decided and not task.is_exhausted:
        begin_batch(task, case.predictor, rule, case.scores, items)
        while not task.needs_batch and not task.is_exhausted:
            draws = task.next_draws(piece if planned is None else task.size)
            task.observe(case.scores[draws.items])
            items.append(draws.items)
            if planned is None:
                summary = task.summary()
                planned = (task.observed, summary.estimate) if summary.planned_half_width <= HALF_WIDTH else None
    return planned or (task.size, float(case.scores.mean()))


def begin_batch(
    task: SequentialTask,
    predictor: Predictor,
    rule: str,
    scores: NDArray[np.float64],
    items: Sequence[NDArray[np.int64]],
) -> None:
    """Begin a task's next batch as a rule says: uniformly, with predictions, or with predictions and weights."""
    if rule == "uniform":
        task.begin_batch()
        return
    if items:
        seen = np.concatenate(items)
        predictor.fit(seen, scores[seen])
    plan = predictor.plan(task.left)
    task.begin_batch(
        plan.predictions,
        plan.weights if rule == "prev_neyman" else None,
        variances=plan.variances,
    )


def _share(decision: Decision, size: int) -> float:
    return (decision.decided_after or size) / size


def _is_wrong(decision: Decision, is_true: bool) -> bool:
    return decision.state is not (DecisionState.PASSED if is_true else DecisionState.FAILED)
