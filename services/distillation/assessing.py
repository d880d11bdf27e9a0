"""How good a student is on texts that it never learnt from: beside its teacher, and beside people where they judged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from evalfleet.calibration.rows import Text

from services.distillation.distilling import Distilled, judged_text
from services.distillation.measures import Quality, quality_of
from services.distillation.students import THRESHOLD


@dataclass(frozen=True, slots=True)
class Assessment:
    """Figures on held-out texts; None where there is nothing to measure on.

    Attributes:
        held_out: texts that the teacher decided.
        unjudged: of those, how many the student would not judge as a guard; the figures are on the others.
        student_teacher: the student against the teacher's decisions.
        student_people: the student against the labels of people, where the rows have them.
        teacher_people: the teacher against them, on the same texts.
    """

    held_out: int
    unjudged: int
    student_teacher: Quality | None
    student_people: Quality | None
    teacher_people: Quality | None


def assess(distilled: Distilled, texts: Sequence[Text], *, seed: int) -> Assessment:
    """Measure a trained student.

    Args:
        distilled: what came of the training.
        texts: that its rows count in.
        seed: of the bootstrap.
    """
    held_out = distilled.held_out
    said = distilled.student.says([judged_text(texts[row]) for row in held_out.rows])
    judged, unsafe = said.judged, said.probabilities >= THRESHOLD
    people = [texts[row].is_unsafe for row in held_out.rows]
    known = judged & np.array([each is not None for each in people], dtype=np.bool_)
    truth = np.array([bool(each) for each in people], dtype=np.bool_)[known]
    has_scores = all(label.probability is not None for label in held_out.labels)
    return Assessment(
        held_out=len(held_out.rows),
        unjudged=int((~judged).sum()),
        student_teacher=quality_of(unsafe[judged], said.probabilities[judged], held_out.unsafe[judged], seed=seed),
        student_people=quality_of(unsafe[known], said.probabilities[known], truth, seed=seed),
        teacher_people=quality_of(
            held_out.unsafe[known], held_out.targets[known] if has_scores else None, truth, seed=seed
        ),
    )
