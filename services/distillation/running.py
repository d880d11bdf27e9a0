"""One call of `evalfleet distill-guard`: from the rows to a guard's folder."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evalfleet.calibration.rows import Text, read_texts
from evalfleet.cli.session import Session
from evalfleet.cli.tables import number
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from services.distillation.assessing import Assessment, assess
from services.distillation.distilling import Round, distil, distil_at_random, distinct
from services.distillation.labels import LabelsFile
from services.distillation.plan import Plan
from services.distillation.report import Outcome
from services.distillation.students import NgramStudent, Origin, Student
from services.distillation.teacher import GuardTeacher, Spent, guard_digest
from services.runtime.errors import AlreadyExistsError

_NO_NAME: Final = re.compile(r"[^a-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for.

    Attributes:
        rows: file of the texts.
        teacher: the guard's name.
        student: kind of the student.
        out: folder to make.
        labels: file of the teacher's labels.
        plan: how many labels, on what.
        compares_random: whether a student on labels drawn at random is trained as well.
        json_file: for the figures; None for nowhere.
        encoder: folder of the encoder of a student that has one; None looks for it.
    """

    rows: Path
    teacher: str
    student: str
    out: Path
    labels: Path
    plan: Plan
    compares_random: bool
    json_file: Path | None
    encoder: Path | None = None

    @property
    def guard_name(self) -> str:
        """What the student is called as a guard: its folder's name, as far as guards can be called so."""
        return _NO_NAME.sub("-", self.out.name.lower()).strip("-.")[:63] or self.student


def run_job(session: Session, job: Job) -> Outcome:
    """Train a student, measure it and write its folder.

    Raises:
        FleetError: the folder is there, or the labels do not suffice.
        EvalFleetError: the rows cannot be read, the service is away, or the teacher is not there.
    """
    if job.out.exists():
        # Before anything is spent.
        raise AlreadyExistsError(f"{job.out} is there already; choose another", metadata={"path": str(job.out)})
    texts = distinct(read_texts(job.rows))
    teacher = session.fleet.safety.guard(job.teacher)
    total = min(job.plan.budget, len(texts))
    with LabelsFile(job.labels, guard_digest(teacher)) as labels, _progress(session, total) as progress:
        asked = GuardTeacher(session.fleet.safety, teacher.name, labels, progress.labelled)
        student, chooser = _student(job, progress.tuned)
        distilled = distil(texts, asked, student, job.plan, chooser=chooser, report=progress.fitted)
        spent = asked.spent
        at_random: Assessment | None = None
        spent_at_random: Spent | None = None
        if job.compares_random:
            also_asked = GuardTeacher(session.fleet.safety, teacher.name, labels)
            other = distil_at_random(texts, also_asked, _student(job, progress.tuned)[0], job.plan)
            at_random, spent_at_random = assess(other, texts, seed=job.plan.seed), also_asked.spent
    assessment = assess(distilled, texts, seed=job.plan.seed)
    outcome = Outcome(
        teacher.name, job.student, texts, job.plan, distilled, assessment, spent, at_random, spent_at_random
    )
    student.save(job.out, Origin(job.guard_name, teacher, _aspects(texts), outcome.facts()))
    if job.json_file is not None:
        job.json_file.parent.mkdir(parents=True, exist_ok=True)
        job.json_file.write_text(json.dumps(outcome.facts(), indent=2) + "\n", encoding="utf-8")
    return outcome


def _student(job: Job, report: Callable[[int, int, float], None]) -> tuple[Student, Student | None]:
    """Return the student, and who chooses the texts in its place where it is slow to train."""
    if job.student == "ngrams":
        return NgramStudent(), None
    # Torch takes seconds to import.
    from services.distillation.minilm import MinilmStudent

    return MinilmStudent(job.encoder, report=report), NgramStudent()


def _aspects(texts: Sequence[Text]) -> tuple[str, ...]:
    """Return what the texts are judged as: a student has learnt nothing of anything else."""
    found = {"response" if text.conversation[-1][0] == "assistant" else "prompt" for text in texts}
    return tuple(sorted(found))


class _Watch:
    """Shows how far it is: a bar on a terminal, and a line after every fit."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("labels", total=total)
        self._tuning: TaskID | None = None

    def labelled(self, count: int) -> None:
        self._progress.update(self._bar, completed=count)

    def tuned(self, step: int, steps: int, loss: float) -> None:
        if self._tuning is None:
            self._tuning = self._progress.add_task("tuning", total=steps)
        self._progress.update(self._tuning, completed=step, total=steps)

    def fitted(self, done: Round) -> None:
        self._progress.console.print(f"{done.labels:,} labels: agreement {number(done.agreement)}", markup=False)


@contextmanager
def _progress(session: Session, total: int) -> Iterator[_Watch]:
    console = session.err
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Watch(progress, total)
