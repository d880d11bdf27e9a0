"""Whether a judge's measured quality is that of the judge who judged a run."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from services.aggregation.errors import QualityOfAnotherJudgeError
from services.aggregation.records import Judge

_GUARDS: Final = "guards/"
_POLICIES: Final = "policies/"


@dataclass(frozen=True, slots=True)
class TaskJudges:
    """Who judged some of a task's items together, scorers and guards alike.

    Attributes:
        lacks_metrics: a metric of these items failed, so that whoever was to give it is not among the judges.
    """

    task: str
    judges: frozenset[Judge]
    lacks_metrics: bool


def check_quality(metric: str, measured: Judge, tasks: Iterable[str], found: Iterable[TaskJudges]) -> None:
    """Refuse a quality that was measured for another judge than a run's.

    Which of its judges gave an item its metric is not told: where a scorer is used twice in a task, the one that was
    measured must be among them. Where a policy made a verdict of what guards said, the quality of one guard is not that
    of the verdicts. Items that nobody of the measured judge's name judged are left alone, such as empty responses,
    which no guard is asked about.

    Args:
        metric: whose rates are to be corrected.
        measured: whose quality is known. A guard's version is its engine, whose computation decides near a threshold,
            and is compared where both are told; of others the digest covers what decides.
        tasks: that have values of this metric.
        found: who judged the run.

    Raises:
        QualityOfAnotherJudgeError: names the first task that another judged, or nobody of this name.
    """
    by_task: dict[str, list[TaskJudges]] = {}
    for each in found:
        by_task.setdefault(each.task, []).append(each)
    for task in sorted(tasks):
        named = [
            ([judge for judge in each.judges if judge.name == measured.name], each) for each in by_task.get(task, [])
        ]
        is_there = [any(_is_same(judge, measured) for judge in judges) for judges, _ in named]
        others = {
            judge
            for (judges, each), there in zip(named, is_there, strict=True)
            if not there and not each.lacks_metrics
            for judge in judges
        }
        if measured.name.startswith(_GUARDS):
            others |= {judge for _, each in named for judge in each.judges if judge.name.startswith(_POLICIES)}
        if others or not any(is_there):
            raise QualityOfAnotherJudgeError(metric, task, measured, others)


def _is_same(judge: Judge, measured: Judge) -> bool:
    return judge.digest == measured.digest and (
        not measured.name.startswith(_GUARDS)
        or "" in (judge.version, measured.version)
        or judge.version == measured.version
        # The verdicts of a guard of several stages name the one that decided: cascade/NAME.
        or judge.version.startswith(f"{measured.version}/")
    )
