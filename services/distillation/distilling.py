"""Trains a student on a bounded number of a teacher's labels: first at random, then where the student is least sure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from evalfleet.calibration.rows import Text
from numpy.typing import NDArray

from services.distillation.errors import PlanError, TooFewLabelsError
from services.distillation.labels import TeacherLabel
from services.distillation.plan import LEAST_BUDGET, Plan
from services.distillation.selecting import choose_next
from services.distillation.students import THRESHOLD, Student
from services.distillation.teacher import Teacher
from services.runtime.errors import InvalidArgumentError

_MOST_CANDIDATES: Final = 20_000
"""Texts that a student is asked about when the next are chosen; of more, so many are drawn anew every time."""
_ONE_SIDED: Final = "TARGETS_ONE_SIDED"

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Texts with the teacher's decisions.

    Attributes:
        rows: which texts.
        labels: what the teacher said of each: safe or unsafe.
    """

    rows: tuple[int, ...]
    labels: tuple[TeacherLabel, ...]

    @property
    def unsafe(self) -> NDArray[np.bool_]:
        """The decisions."""
        return np.array([bool(each.is_unsafe) for each in self.labels], dtype=np.bool_)

    @property
    def targets(self) -> NDArray[np.float64]:
        """What is learnt of each."""
        return np.array([each.target for each in self.labels], dtype=np.float64)

    def __add__(self, other: "LabelledRows") -> "LabelledRows":
        return LabelledRows(self.rows + other.rows, self.labels + other.labels)


@dataclass(frozen=True, slots=True)
class Round:
    """Who chooses the texts, after one of the rounds: the student, or a cheaper one in its place.

    Attributes:
        labels: that it learnt from.
        agreement: with the teacher, share of the held-out texts that it judges; None if it judges none.
    """

    labels: int
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Distilled:
    """A trained student and what is known of it.

    Attributes:
        student: after its last fit.
        training: what it learnt from.
        held_out: what it is measured on.
        undecided: texts that were chosen and that the teacher called neither safe nor unsafe.
        rounds: its way.
    """

    student: Student
    training: LabelledRows
    held_out: LabelledRows
    undecided: int
    rounds: tuple[Round, ...]


def distil(
    texts: Sequence[Text],
    teacher: Teacher,
    student: Student,
    plan: Plan,
    *,
    chooser: Student | None = None,
    report: Callable[[Round], None] = lambda done: None,
) -> Distilled:
    """Train a student on labels that it chose itself, or that a cheaper one chose for it.

    Args:
        texts: to choose from; no two alike, see ``distinct``.
        teacher: labels them.
        student: is trained.
        plan: how many labels, on what.
        chooser: is fitted in every round and says what it doubts in the student's place, who is trained only once
            (selection via proxy: Coleman et al. 2020, arXiv:1906.11829).
        report: told after every fit of the rounds.

    Raises:
        PlanError: the plan asks for too little, or has too few texts.
        TooFewLabelsError: the teacher decided too little, or always the same.
    """
    return _Distillation(texts, teacher, student, chooser or student, plan, report).run()


def distil_at_random(texts: Sequence[Text], teacher: Teacher, student: Student, plan: Plan) -> Distilled:
    """Train a student on as many labels, all drawn at random: what choosing is to be compared with.

    Its held-out texts and the first of its texts for training are those of ``distil`` under the same plan, so the
    teacher need be asked about the others only.
    """
    return _Distillation(texts, teacher, student, student, plan, lambda done: None).run(at_random=True)


def distinct(texts: Sequence[Text]) -> list[Text]:
    """Return texts without those whose judged turn another one has, but for spaces and case; labelled ones go first."""
    found: dict[tuple[str, str], Text] = {}
    for text in sorted(texts, key=lambda each: each.is_unsafe is None):
        role, content = text.conversation[-1]
        found.setdefault((role, " ".join(content.split()).casefold()), text)
    chosen = {id(each) for each in found.values()}
    return [each for each in texts if id(each) in chosen]


class _Distillation:
    """One training: which texts are labelled, which are left, and what the student is by now."""

    def __init__(
        self,
        texts: Sequence[Text],
        teacher: Teacher,
        student: Student,
        chooser: Student,
        plan: Plan,
        report: Callable[[Round], None],
    ) -> None:
        budget = min(plan.budget, len(texts))
        if budget < LEAST_BUDGET:
            raise PlanError(
                f"a budget of {budget} labels is too small; at least {LEAST_BUDGET} different texts are needed"
            )
        held_out = round(budget * plan.held_out_share)
        self._texts = texts
        self._teacher = teacher
        self._student = student
        self._chooser = chooser
        self._plan = plan
        self._report = report
        self._chance = np.random.default_rng(plan.seed)
        order = self._chance.permutation(len(texts))
        self._held_out, self._left = order[:held_out], order[held_out:]
        self._for_training = budget - held_out
        self._training = LabelledRows((), ())
        self._undecided = 0
        self._rounds: list[Round] = []

    def run(self, *, at_random: bool = False) -> Distilled:
        held_out = self._labelled(self._held_out)
        if not len(held_out.rows):
            raise TooFewLabelsError("the teacher decided none of the texts to measure on; is it working?")
        first = max(1, round(self._for_training * self._plan.first_share))
        if at_random:
            first = self._for_training
        self._take(np.arange(min(first, len(self._left))))
        is_fitted = self._fit(held_out)
        for count in self._portions(self._for_training - first):
            self._take(self._choose(count) if is_fitted else np.arange(min(count, len(self._left))))
            is_fitted = self._fit(held_out)
        if not is_fitted:
            raise TooFewLabelsError(
                f"the teacher decided {len(self._training.rows)} of the texts to learn from, none or all of them as "
                "unsafe; give more texts, or a larger budget"
            )
        if self._chooser is not self._student:
            self._student.fit(*self._lessons())
        return Distilled(self._student, self._training, held_out, self._undecided, tuple(self._rounds))

    def _portions(self, count: int) -> Iterator[int]:
        rounds = max(1, self._plan.rounds)
        for number in range(rounds):
            portion = count * (number + 1) // rounds - count * number // rounds
            if portion:
                yield portion

    def _choose(self, count: int) -> Rows:
        candidates = np.arange(len(self._left))
        if len(candidates) > _MOST_CANDIDATES:
            candidates = self._chance.choice(candidates, size=_MOST_CANDIDATES, replace=False)
        said = self._chooser.says([judged_text(self._texts[row]) for row in self._left[candidates]])
        return candidates[choose_next(said.probabilities, count, self._plan.random_share, self._chance)]

    def _take(self, places: Rows) -> None:
        self._training += self._labelled(self._left[places])
        self._left = np.delete(self._left, places)

    def _labelled(self, rows: Rows) -> LabelledRows:
        labels = self._teacher.label([self._texts[row] for row in rows])
        decided = [
            (int(row), label)
            for row, label in zip(rows, labels, strict=True)
            if label is not None and label.is_unsafe is not None
        ]
        self._undecided += len(labels) - len(decided)
        return LabelledRows(tuple(row for row, _ in decided), tuple(label for _, label in decided))

    def _fit(self, held_out: LabelledRows) -> bool:
        try:
            self._chooser.fit(*self._lessons())
        except InvalidArgumentError as error:
            if error.reason != _ONE_SIDED:
                raise
            return False
        said = self._chooser.says([judged_text(self._texts[row]) for row in held_out.rows])
        agrees = ((said.probabilities >= THRESHOLD) == held_out.unsafe)[said.judged]
        self._rounds.append(Round(len(self._training.rows), float(agrees.mean()) if len(agrees) else None))
        self._report(self._rounds[-1])
        return True

    def _lessons(self) -> tuple[list[str], NDArray[np.float64]]:
        return [judged_text(self._texts[row]) for row in self._training.rows], self._training.targets


def judged_text(text: Text) -> str:
    """Return what a student reads of a text: the judged turn."""
    return text.conversation[-1][1]
