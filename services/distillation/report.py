"""What `evalfleet distill-guard` tells: a table and lines for people, JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalfleet.calibration.rows import Text
from evalfleet.cli.tables import number, plain_table
from evalfleet.names import short_name
from rich.table import Table

from services.distillation.assessing import Assessment
from services.distillation.distilling import Distilled
from services.distillation.measures import Measure, Quality
from services.distillation.plan import Plan
from services.distillation.teacher import Spent


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a distillation found out.

    Attributes:
        teacher: resource name of the guard that labelled.
        student: kind of the student.
        texts: that there were to choose from, no two alike.
        plan: what was asked for.
        distilled: the student and its labels.
        assessment: of the student.
        spent: what its labels cost.
        at_random: the same for a student on labels drawn at random; None if it was not asked for.
        spent_at_random: what that student's labels cost beyond the first one's.
    """

    teacher: str
    student: str
    texts: Sequence[Text]
    plan: Plan
    distilled: Distilled
    assessment: Assessment
    spent: Spent
    at_random: Assessment | None = None
    spent_at_random: Spent | None = None

    def facts(self) -> dict[str, Any]:
        """Return plan, costs and figures as JSON can hold them."""
        return {
            "teacher": self.teacher,
            "student": self.student,
            "plan": asdict(self.plan),
            "texts": len(self.texts),
            "labels": {
                "training": len(self.distilled.training.rows),
                "training_unsafe": int(self.distilled.training.unsafe.sum()),
                "held_out": len(self.distilled.held_out.rows),
                "undecided": self.distilled.undecided,
                **asdict(self.spent),
            },
            "rounds": [asdict(each) for each in self.distilled.rounds],
            "figures": asdict(self.assessment),
            **({"at_random": asdict(self.at_random)} if self.at_random else {}),
            **({"labels_at_random": asdict(self.spent_at_random)} if self.spent_at_random else {}),
        }


def quality_table(outcome: Outcome) -> Table:
    """Return who was held against whom, with 95 % intervals."""
    table = plain_table("on held-out texts", ">texts", ">unsafe", "agreement", "AUPRC", "F1")
    teacher, assessment = short_name(outcome.teacher), outcome.assessment
    rows = [
        (f"{outcome.student} against {teacher}", assessment.student_teacher),
        (
            f"{outcome.student}, labels at random, against {teacher}",
            outcome.at_random.student_teacher if outcome.at_random else None,
        ),
        (f"{outcome.student} against the rows' labels", assessment.student_people),
        (f"{teacher} against the rows' labels", assessment.teacher_people),
    ]
    for name, quality in rows:
        if quality is not None:
            table.add_row(name, *_cells(quality))
    return table


def remarks(outcome: Outcome) -> list[str]:
    """Return what the table does not say, a line each."""
    spent, distilled, assessment = outcome.spent, outcome.distilled, outcome.assessment
    used = spent.asked + spent.known
    lines = [
        f"labels: {used:,} of {len(outcome.texts):,} texts ({used / len(outcome.texts):.1%}); "
        f"asked now {spent.asked:,}, known from the labels file {spent.known:,}",
        f"learnt from {len(distilled.training.rows):,}, of which {int(distilled.training.unsafe.sum()):,} unsafe; "
        f"measured on {assessment.held_out:,} others, drawn at random",
        ("agreement by labels: " if outcome.student == "ngrams" else "agreement of the n-grams that chose, by labels: ")
        + ", ".join(f"{each.labels:,} → {number(each.agreement)}" for each in distilled.rounds),
    ]
    if distilled.undecided:
        lines.append(
            f"{distilled.undecided:,} texts were neither SAFE nor UNSAFE to the teacher: nothing was learnt of them"
        )
    if spent.unjudged:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(spent.unjudged.items()))
        lines.append(f"the teacher could not judge some, and is asked again next time: {reasons}")
    if assessment.unjudged:
        share = assessment.unjudged / assessment.held_out
        lines.append(
            f"{assessment.unjudged:,} held-out texts ({share:.1%}) hold too little that it knows: as a guard it says "
            "ERROR there, and a cascade hands them on; they are not in the figures"
        )
    if outcome.spent_at_random:
        lines.append(
            f"labels for the comparison with random choice: {outcome.spent_at_random.asked:,} asked beyond those"
        )
    return lines


def _cells(quality: Quality) -> list[str]:
    measures = (quality.agreement, quality.auprc, quality.f1)
    return [f"{quality.rows:,}", f"{quality.unsafe:,}", *(_shown(each) for each in measures)]


def _shown(measure: Measure | None) -> str:
    return "–" if measure is None else f"{measure.value:.3f}  {measure.low:.3f} … {measure.high:.3f}"
