"""The students of the benchmark: how each is trained, and how it does on texts that no guard was trained on.

Processes of their own train them, so they are not in ``__main__``, which a spawned process does not import.
"""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from evalfleet.calibration.rows import Text
from numpy.typing import NDArray

from examples.guard_head.measures import at_threshold, average_precision
from examples.guard_head.scoring import MeasuredGuard, Scores
from examples.guard_head.train import load_split
from services.distillation.distilling import distil, distil_at_random, distinct, judged_text
from services.distillation.labels import TeacherLabel
from services.distillation.plan import Plan
from services.distillation.students import THRESHOLD, NgramStudent, Student
from services.safety.guard_models import EMBEDDED_FOLDER

WAYS: Final = {"chosen": distil, "random": distil_at_random}
_SPLIT_SEED: Final = 7
_TIMED_TEXTS: Final = 500
_PAIRED: Final = ("agreement", "auprc_against_people")


class KnownTeacher:
    """Implements ``Teacher`` on judgements that were made before: every student is taught by the same ones."""

    def __init__(self, texts: Sequence[str], probabilities: Scores, threshold: float) -> None:
        self._labels = {
            text: TeacherLabel("unsafe" if each >= threshold else "safe", float(each), threshold)
            for text, each in zip(texts, probabilities, strict=True)
        }

    def label(self, texts: Sequence[Text]) -> list[TeacherLabel | None]:
        """Return what was judged."""
        return [self._labels[judged_text(text)] for text in texts]


class Job(NamedTuple):
    """One student to train."""

    way: str
    budget: int
    seed: int


@dataclass(frozen=True, slots=True)
class Material:
    """What all students share.

    Attributes:
        texts: to choose from.
        teacher: knows the large guard's label of each.
        held_out: texts that no guard was trained on.
        large: bool [held-out texts], the large guard's decisions.
        people: bool [held-out texts], those of people.
    """

    texts: list[Text]
    teacher: KnownTeacher
    held_out: list[str]
    large: NDArray[np.bool_]
    people: NDArray[np.bool_]


def material(data: Path, encoder: Path | None, most_texts: int) -> tuple[Material, dict[str, float]]:
    """Have the large guard judge the texts; return also its own figures."""
    split = load_split(data, _SPLIT_SEED)
    guard = MeasuredGuard(EMBEDDED_FOLDER, encoder)
    texts = distinct([Text((("user", each.text),), None) for each in split.training])
    texts = random.Random(_SPLIT_SEED).sample(texts, min(most_texts, len(texts)))
    pool, held_out = [judged_text(each) for each in texts], [each.text for each in split.test]
    probabilities = guard.unsafe_probabilities(held_out)
    people = np.array([each.is_unsafe for each in split.test], dtype=np.bool_)
    teacher = KnownTeacher(pool, guard.unsafe_probabilities(pool), guard.threshold)
    figures = {
        "texts": float(len(pool)),
        "held_out": float(len(held_out)),
        "teacher_auprc_against_people": average_precision(probabilities, people),
    }
    return Material(texts, teacher, held_out, probabilities >= guard.threshold, people), figures


def trained(given: Material, job: Job) -> dict[str, float]:
    """Train one student and return how it does on the held-out texts that it would judge."""
    plan = Plan(job.budget, seed=job.seed)
    return student_figures(WAYS[job.way](given.texts, given.teacher, NgramStudent(), plan).student, given)


def student_figures(student: Student, given: Material) -> dict[str, float]:
    """Return how a student does, against the large guard and against people."""
    said = student.says(given.held_out)
    scores, decisions, people = said.probabilities[said.judged], given.large[said.judged], given.people[said.judged]
    timed = given.held_out[:_TIMED_TEXTS]
    started = time.process_time()
    student.says(timed)
    seconds = time.process_time() - started
    return {
        "agreement": float(((scores >= THRESHOLD) == decisions).mean()),
        "auprc_against_teacher": average_precision(scores, decisions),
        "f1_against_teacher": at_threshold(scores, decisions, THRESHOLD).f1,
        "auprc_against_people": average_precision(scores, people),
        "judged_share": float(said.judged.mean()),
        "cpu_microseconds_per_text": 1e6 * seconds / len(timed),
    }


def summary(found: Mapping[Job, Mapping[str, float]], seeds: int) -> dict[str, float]:
    """Return means over the seeds, and how much choosing gains with the standard error of that."""
    figures: dict[str, float] = {}
    for budget in sorted({job.budget for job in found}):
        for way in WAYS:
            each_seed = [found[Job(way, budget, seed)] for seed in range(seeds)]
            for name in each_seed[0]:
                if name != "cpu_microseconds_per_text":
                    figures[f"{name}_{way}_{budget}"] = statistics.mean(each[name] for each in each_seed)
        for name in _PAIRED:
            gains = [
                found[Job("chosen", budget, seed)][name] - found[Job("random", budget, seed)][name]
                for seed in range(seeds)
            ]
            figures[f"{name}_gain_{budget}"] = statistics.mean(gains)
            figures[f"{name}_gain_standard_error_{budget}"] = statistics.stdev(gains) / seeds**0.5
    figures["cpu_microseconds_per_text"] = statistics.median(
        each["cpu_microseconds_per_text"] for each in found.values()
    )
    return figures
