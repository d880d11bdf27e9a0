"""Fits a cascade of guards to rows that all of them judged, and measures on rows that the fit never saw."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from evalfleet.calibration.risk_control import (
    Choice,
    Judged,
    Outcome,
    PValue,
    Thresholds,
    binomial_p_value,
    choose_thresholds,
    exchangeable_p_value,
)
from evalfleet.calibration.temperature import (
    CalibrationErrors,
    apply_temperature,
    calibration_errors,
    fit_temperature,
)
from evalfleet.errors import CalibrationError

ORDERING_SHARE, PROMISE_SHARE = 0.25, 0.5
"""Shares of rows that order thresholds and fit temperatures, and that the promise rests on; the rest is held out."""

_FEWEST_ROWS = 8


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One text as all guards of a cascade judged it.

    Attributes:
        early: the unsafe probability of every guard but the last, cheapest first; ``None`` where a guard failed, has
            none, or read only a part of the text: the cascade hands on then.
        is_unsafe: the last guard's decision; ``None`` where it was neither SAFE nor UNSAFE.
    """

    early: tuple[float | None, ...]
    is_unsafe: bool | None


@dataclass(frozen=True, slots=True)
class Promise:
    """What is promised of a cascade.

    Attributes:
        epsilon: most disagreement with the last guard, as a share of all texts.
        delta: probability, over the draw of the calibration rows, that this fails.
        promised_rows: it speaks of so many texts that come next; ``None``: of the long run.
    """

    epsilon: float
    delta: float
    promised_rows: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no promise."""
        if not (0 < self.epsilon < 1 and 0 < self.delta < 1):
            raise CalibrationError("epsilon and delta must lie between 0 and 1", reason="PROMISE_INVALID")
        if self.promised_rows is not None and self.promised_rows < 1:
            raise CalibrationError("promised rows must be at least 1", reason="PROMISE_INVALID")

    def share(self, stages: int) -> "Promise":
        """Return the promise for each of several early guards: their errors and failures at most add up."""
        return Promise(self.epsilon / stages, self.delta / stages, self.promised_rows)

    @property
    def p_value(self) -> PValue:
        """The test of "the disagreement exceeds epsilon"."""
        if self.promised_rows is None:
            return partial(binomial_p_value, epsilon=self.epsilon)
        return partial(exchangeable_p_value, epsilon=self.epsilon, promised_rows=self.promised_rows)


@dataclass(frozen=True, slots=True)
class StageFit:
    """One early guard.

    Attributes:
        choice: its thresholds, and what they did on the rows that the promise rests on.
        temperature: of its probabilities, as probabilities of the last guard's UNSAFE.
        errors_before: of its probabilities on held-out rows; ``None`` without such rows.
        errors_after: of the same after temperature scaling.
    """

    choice: Choice
    temperature: float
    errors_before: CalibrationErrors | None
    errors_after: CalibrationErrors | None


@dataclass(frozen=True, slots=True)
class CascadeFit:
    """A fitted cascade.

    Attributes:
        promise: of the whole cascade.
        stages: its guards but the last, cheapest first.
        ordering_rows: how many rows ordered thresholds.
        promise_rows: how many rows the promise rests on.
        held_out: what the cascade does on rows that had no part in it; ``escalated`` reached the last guard.
        seed: of the split.
    """

    promise: Promise
    stages: tuple[StageFit, ...]
    ordering_rows: int
    promise_rows: int
    held_out: Outcome
    seed: int

    @property
    def thresholds(self) -> tuple[Thresholds, ...]:
        """Of each early guard."""
        return tuple(stage.choice.thresholds for stage in self.stages)


def fit_cascade(rows: Sequence[JudgedRow], promise: Promise, *, seed: int = 0) -> CascadeFit:
    """Fit the thresholds and temperatures of a cascade.

    Every early guard is held against the last one on all rows, not only on those that reach it: what it does wrong of
    the latter is at most that. So the promises of several guards add up to the cascade's.

    Args:
        rows: drawn like the texts that the promise is about, independent of what the guards were trained on. A text
            that occurs twice counts twice, which is right only if it does so later too.
        promise: of the whole cascade.
        seed: of the random split.

    Raises:
        CalibrationError: there are too few rows, or they differ in their number of guards.
    """
    if len(rows) < _FEWEST_ROWS:
        raise CalibrationError(
            f"{len(rows)} rows are too few; {_FEWEST_ROWS} is the least that can be split", reason="TOO_FEW_ROWS"
        )
    stages = len(rows[0].early)
    if not stages or any(len(row.early) != stages for row in rows):
        raise CalibrationError("every row needs a probability of every early guard", reason="ROWS_DIFFER")
    shuffled = random.Random(seed).sample(rows, len(rows))
    first = round(ORDERING_SHARE * len(rows))
    second = first + round(PROMISE_SHARE * len(rows))
    ordering, resting, held_out = shuffled[:first], shuffled[first:second], shuffled[second:]
    own = promise.share(stages)
    fits = tuple(
        _fit_stage(_column(ordering, index), _column(resting, index), _column(held_out, index), own)
        for index in range(stages)
    )
    return CascadeFit(
        promise=promise,
        stages=fits,
        ordering_rows=len(ordering),
        promise_rows=len(resting),
        held_out=measure_cascade([fit.choice.thresholds for fit in fits], held_out),
        seed=seed,
    )


def measure_cascade(thresholds: Sequence[Thresholds], rows: Sequence[JudgedRow]) -> Outcome:
    """Count what a cascade does: where it differs from the last guard, and how often that guard is asked."""
    mistakes = escalated = 0
    for row in rows:
        decisions = (pair.decide(probability) for pair, probability in zip(thresholds, row.early, strict=True))
        decision = next((each for each in decisions if each is not None), None)
        escalated += decision is None
        mistakes += decision is not None and decision is not row.is_unsafe
    return Outcome(len(rows), mistakes, escalated)


def _fit_stage(
    ordering: Sequence[Judged], resting: Sequence[Judged], held_out: Sequence[Judged], promise: Promise
) -> StageFit:
    temperature = fit_temperature(*_known(ordering))
    probabilities, labels = _known(held_out)
    scaled = [apply_temperature(each, temperature) for each in probabilities]
    return StageFit(
        choice=choose_thresholds(ordering, resting, delta=promise.delta, p_value=promise.p_value),
        temperature=temperature,
        errors_before=calibration_errors(probabilities, labels) if labels else None,
        errors_after=calibration_errors(scaled, labels) if labels else None,
    )


def _column(rows: Sequence[JudgedRow], index: int) -> list[Judged]:
    return [Judged(row.early[index], row.is_unsafe) for row in rows]


def _known(rows: Sequence[Judged]) -> tuple[list[float], list[bool]]:
    known = [
        (row.probability, row.is_unsafe) for row in rows if row.probability is not None and row.is_unsafe is not None
    ]
    return [probability for probability, _ in known], [is_unsafe for _, is_unsafe in known]
