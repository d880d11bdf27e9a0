"""The guards, and how good those are that were measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalfleet.calibration.agreement import wilson_interval
from evalfleet.calibration.quality_records import read_quality
from evalfleet.errors import CalibrationError
from evalfleet.names import short_name
from evalfleet.pages.markup import Child, joined, tag
from evalfleet.pages.numbers import count, number, span
from evalfleet.pages.page import Section
from evalfleet.pages.tables import Row, table
from evalfleet.results import Guard, GuardQuality, RunSnapshot


@dataclass(frozen=True, slots=True)
class Record:
    """A quality record's file, and what it says or why it cannot be believed."""

    file: str
    quality: GuardQuality | CalibrationError


def read_records(folder: Path | None) -> list[Record]:
    """Read all records of a folder; one that was changed says so instead of a figure."""
    found = []
    for path in sorted(folder.glob("*.json")) if folder is not None else ():
        try:
            found.append(Record(path.name, read_quality(path, "unsafe")))
        except CalibrationError as error:
            found.append(Record(path.name, error))
    return found


def guards_section(guards: Sequence[Guard]) -> Section:
    """Lay out what the safety service can ask."""
    rows = [
        Row(
            [
                tag("bdi", short_name(each.name)),
                each.description,
                ", ".join(each.aspects),
                count(len(each.categories)),
                "" if each.default_threshold is None else f"{each.default_threshold:.3g}",
                each.reference.engine,
                tag("code", each.reference.weights_digest[:12]),
            ],
            {"data_guard": each.name},
        )
        for each in guards
    ]
    headers = ("guard", "what it is", "judges", ">hazards", ">threshold", "engine", "weights")
    return Section("guards", "Guards", table(None, headers, rows))


def quality_section(records: Sequence[Record], folder: Path | None) -> Section:
    """Lay out how often measured guards and judges are right, with Wilson's intervals."""
    if not records:
        words = "No records: `evalfleet calibrate-guard ROWS --guard NAME --out FILE` makes one" + (
            f", to be put into {folder}." if folder else "; name their folder with EVALFLEET_DASHBOARD_GUARD_RECORDS."
        )
        return Section("quality", "Quality", tag("p", words, class_="note"))
    judges = [each for each in records if _is_of_judge(each)]
    guards = [each for each in records if each not in judges]
    tables = []
    if guards:
        headers = ("record", "guard", ">sensitivity", ">specificity", ">unsafe texts", ">safe texts")
        caption = "Guards: of texts labelled unsafe, those found; of texts labelled safe, those cleared"
        tables.append(table(caption, headers, map(_record, guards)))
    if judges:
        headers = ("record", "judge", ">passing found", ">failing found", ">passing answers", ">failing answers")
        caption = (
            "Judges: of answers that people let pass, and of those that they did not, those that the judge did likewise"
        )
        tables.append(table(caption, headers, map(_record, judges)))
    return Section("quality", "Quality", joined(*tables), "Against labels, with Wilson's 95 % intervals.")


def _is_of_judge(record: Record) -> bool:
    quality = record.quality
    return isinstance(quality, GuardQuality) and not (quality.judge and quality.judge.name.startswith("guards/"))


def _record(record: Record) -> Row:
    quality = record.quality
    if isinstance(quality, CalibrationError):
        return Row([record.file, quality.message, "", "", "", ""])
    return Row(
        [
            record.file,
            tag("bdi", short_name(quality.judge.name)) if quality.judge else "",
            _share(quality.unsafe_found, quality.unsafe_count),
            _share(quality.safe_cleared, quality.safe_count),
            count(quality.unsafe_count),
            count(quality.safe_count),
        ]
    )


def _share(part: int, whole: int) -> Child:
    if not whole:
        return "–"
    limits = wilson_interval(part, whole)
    return joined(number(part / whole), tag("span", f" {span(limits.lower, limits.upper)}", class_="small"))


def silence_section(snapshots: Iterable[RunSnapshot]) -> Section:
    """Lay out how often guards gave no verdict in recent runs, by reason: those count as unsafe, never as safe."""
    asked: dict[str, int] = {}
    silent: dict[str, dict[str, int]] = {}
    for snapshot in snapshots:
        # Of answers that never came, no guard was asked.
        unanswered = {each.task: each.failures_by_reason for each in snapshot.totals}
        for each in snapshot.estimates:
            if each.metric == "unsafe" and not each.group:
                asked[each.task] = asked.get(each.task, 0) + each.scored_count + each.failed_count
                reasons = silent.setdefault(each.task, {})
                for reason, times in each.failures_by_reason.items():
                    of_the_guard = times - unanswered.get(each.task, {}).get(reason, 0)
                    if of_the_guard > 0:
                        reasons[reason] = reasons.get(reason, 0) + of_the_guard
    rows = [
        Row([tag("bdi", task), count(asked[task]), count(sum(silent[task].values())), _reasons(silent[task])])
        for task in sorted(asked)
    ]
    content = (
        table(None, ("task", ">answers", ">without a verdict", "why"), rows)
        if rows
        else tag("p", "No run has a guard.")
    )
    return Section(
        "silence", "Verdicts that never came", content, "In the newest runs; such answers are not called safe."
    )


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count(times)}" for reason, times in sorted(counts.items()))
