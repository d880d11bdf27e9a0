"""`evalfleet calibrate-guard`: thresholds for a cascade of guards, with a promise that holds; or one guard's errors."""

import re
from pathlib import Path

import click
from rich.console import Console

from evalfleet.calibration.agreement import wilson_interval
from evalfleet.calibration.document import cascade_document, write_document
from evalfleet.calibration.fitting import CascadeFit, Promise, StageFit, fit_cascade
from evalfleet.calibration.guard_quality import MeasuredGuard, measure_guard
from evalfleet.calibration.quality_records import guard_record
from evalfleet.calibration.risk_control import HANDS_ALL_ON
from evalfleet.calibration.rows import JudgedTexts, Text, judge_texts, read_texts
from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import fields_of, json_option, write_json
from evalfleet.cli.reports import results_console
from evalfleet.cli.session import Session
from evalfleet.cli.tables import number, plain_table
from evalfleet.errors import CalibrationError
from evalfleet.names import full_name, short_name
from evalfleet.results import Guard

_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


def _check_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse a name that the service would refuse, before hours of judging."""
    if _NAME.fullmatch(value) is None:
        raise click.BadParameter("use lower-case letters, digits, '.' and '-', 63 characters at most, e.g. two-stage")
    return value


@click.command(
    "calibrate-guard",
    epilog="""\b
Examples:
  evalfleet calibrate-guard texts.jsonl --guard minilm-hazard --guard llama-guard \\
      --name two-stage --out cascade.json
  evalfleet calibrate-guard judged.jsonl --guard minilm-hazard --guard llama-guard \\
      --labels-are-last --epsilon 0.01 --delta 0.05 --out cascade.json
  evalfleet calibrate-guard labelled.jsonl --guard minilm-hazard --out guard.json
  evalfleet show RUN --guard-quality unsafe=@guard.json

\b
Each line of ROWS is a JSON object: {"text": …}, {"prompt": …, "response": …} or {"messages": …},
and perhaps "label": "safe" or "unsafe". Draw the rows like the texts that the cascade will judge:
the promise is about such texts, and about no others.""",
)
@click.argument("rows", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option(
    "--guard",
    "guards",
    multiple=True,
    required=True,
    metavar="NAME",
    shell_complete=completes("guards"),
    help="A guard of the cascade; repeat, cheapest first. One alone is measured against the rows' labels.",
)
@click.option("--name", default="cascade", show_default=True, callback=_check_name, help="The cascade's name.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Calibration file to write; of one guard, its record.",
)
@click.option(
    "--epsilon", type=_SHARE, default=0.02, show_default=True, help="Most disagreement with the last guard, as a share."
)
@click.option(
    "--delta", type=_SHARE, default=0.1, show_default=True, help="Probability that the promise may fail by bad luck."
)
@click.option(
    "--promised-rows", type=click.IntRange(min=1), help="Promise it of so many texts to come; default: in the long run."
)
@click.option(
    "--labels-are-last", is_flag=True, help="The rows' labels are the last guard's decisions: it is not asked again."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split of the rows.")
@json_option
@click.pass_obj
def calibrate_guard(
    session: Session,
    rows: Path,
    guards: tuple[str, ...],
    name: str,
    out: Path | None,
    epsilon: float,
    delta: float,
    promised_rows: int | None,
    labels_are_last: bool,
    seed: int,
    json_path: Path | None,
) -> None:
    """Find what a cheap guard can decide alone, so that the last guard rarely has to.

    Has the guards judge ROWS, chooses the thresholds that hand on least while the disagreement with the last guard
    stays below a bound, at a stated confidence, and measures them on rows that had no part in it.

    With one guard, says how often it is right about labelled ROWS, as `evalfleet show --guard-quality` needs it.
    """
    if len(set(guards)) < len(guards):
        raise click.UsageError("give different guards with --guard, cheapest first")
    if len(guards) == 1:
        if labels_are_last:
            raise click.UsageError("--labels-are-last is of a cascade: give two or more guards with --guard")
        _measure(session, guards[0], rows, out, json_path)
        return
    promise = Promise(epsilon, delta, promised_rows)
    texts = read_texts(rows)
    described = [session.fleet.safety.guard(each) for each in guards]
    names = [each.name for each in described]
    with session.err.status("asking the guards") as status:
        judged = judge_texts(
            session.fleet.safety,
            names,
            texts,
            labels_are_last=labels_are_last,
            report=lambda guard, done: status.update(f"{guard}: {done:,}/{len(texts):,} rows"),
        )
    fit = fit_cascade(judged.rows, promise, seed=seed)
    console = results_console(session, json_path)
    if not write_json({"guards": names, **fields_of(fit)}, json_path):
        _show(console, described, texts, judged, fit, shows_labels=not labels_are_last)
    if all(each == HANDS_ALL_ON for each in fit.thresholds):
        raise click.ClickException(
            "no guard can be promised to decide anything: give more rows, allow more disagreement, "
            "or use guards that are more alike"
        )
    if out is not None:
        content = cascade_document(
            name, f"{', then '.join(short_name(each) for each in names)}.", described, fit, source=rows.name
        )
        write_document(out, content)
        console.print(f"{full_name('guards', name)}: {out}, digest {content['digest']}", markup=False)


def _measure(session: Session, name: str, rows: Path, out: Path | None, json_path: Path | None) -> None:
    guard, texts = session.fleet.safety.guard(name), read_texts(rows)
    with session.err.status("asking the guard") as status:
        found = measure_guard(
            session.fleet.safety,
            guard.name,
            texts,
            report=lambda done: status.update(f"{guard.name}: {done:,}/{len(texts):,} rows"),
        )
    console = results_console(session, json_path)
    if not write_json(found, json_path):
        for line in _measured(guard, found):
            console.print(line, markup=False, soft_wrap=True)
    if out is None:
        return
    if session.fleet.safety.guard(name).reference != guard.reference:
        raise CalibrationError(f"{guard.name} was replaced meanwhile: begin again", reason="GUARD_CHANGED")
    record = guard_record(guard, found, source=rows.name)
    write_document(out, record)
    console.print(f"{out}, digest {record['digest']}", markup=False, soft_wrap=True)


def _measured(guard: Guard, found: MeasuredGuard) -> list[str]:
    shares = (("sensitivity", found.found, found.unsafe), ("specificity", found.cleared, found.safe))
    lines = [f"{short_name(guard.name)} against the labels, with 95 % intervals (Wilson):"]
    for name, count, total in shares:
        if total == 0:
            lines.append(f"{name} unknown: no such row was judged")
            continue
        lower, upper = wilson_interval(count, total)
        lines.append(f"{name} {count / total:.3f} ({count}/{total}), {lower:.3f} … {upper:.3f}")
    lines += [f"{count} rows were not judged: {reason}" for reason, count in sorted(found.unjudged.items())]
    if found.errors is not None:
        width, mass = number(found.errors.equal_width), number(found.errors.equal_mass)
        lines.append(f"expected calibration error {width} in bins of equal width, {mass} of equal mass")
    if found.unsafe and found.safe:
        lines.append(f"for rates without its errors: evalfleet show RUN --guard-quality {found.counts}")
    return lines


def _show(
    console: Console,
    guards: list[Guard],
    texts: list[Text],
    judged: JudgedTexts,
    fit: CascadeFit,
    *,
    shows_labels: bool,
) -> None:
    table = plain_table(
        "guard", ">SAFE up to", ">UNSAFE from", ">decides", ">mistakes", ">p", ">temperature", ">ECE width", ">ECE mass"
    )
    for guard, stage in zip(guards, fit.stages, strict=False):
        table.add_row(*_stage_row(guard, stage))
    table.add_row(short_name(guards[-1].name), "", "", "the rest")
    console.print(table)
    promise, held_out = fit.promise, fit.held_out
    about = "in the long run" if promise.promised_rows is None else f"in the next {promise.promised_rows:,} texts"
    lines = [
        f"promise: with confidence {1 - promise.delta:.1%}, {about} at most {promise.epsilon:.2%} of such texts are "
        f"decided otherwise than by {short_name(guards[-1].name)}",
        f"rests on {fit.promise_rows:,} rows; thresholds were ordered on {fit.ordering_rows:,} others",
        f"held out: {held_out.rows:,} rows, disagreement {held_out.disagreement:.2%} ({held_out.mistakes}), "
        f"handed on to the last guard {held_out.escalated_share:.1%}",
        "ECE: expected calibration error on held-out rows against the last guard's decisions, before → after "
        "temperature scaling, in bins of equal width and of equal mass",
    ]
    if judged.undecided:
        lines.append(
            f"{judged.undecided} rows were neither SAFE nor UNSAFE to the last guard: deciding them is a mistake"
        )
    lines += [
        f"{count} rows are handed on by {short_name(guard.name)} whatever the thresholds: no probability, or cut"
        for guard, count in zip(guards, judged.handed_on, strict=False)
        if count
    ]
    if shows_labels:
        lines += _against_labels(guards[-1], texts, judged)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _stage_row(guard: Guard, stage: StageFit) -> list[str]:
    thresholds, outcome = stage.choice.thresholds, stage.choice.outcome
    before, after = stage.errors_before, stage.errors_after
    return [
        short_name(guard.name),
        "never" if thresholds.low is None else f"{thresholds.low:.4f}",
        "never" if thresholds.high is None else f"{thresholds.high:.4f}",
        f"{1 - outcome.escalated_share:.1%}",
        f"{outcome.mistakes}/{outcome.rows:,}",
        f"{stage.choice.p_value:.3f}",
        f"{stage.temperature:.2f}",
        "–" if before is None or after is None else f"{number(before.equal_width)} → {number(after.equal_width)}",
        "–" if before is None or after is None else f"{number(before.equal_mass)} → {number(after.equal_mass)}",
    ]


def _against_labels(last: Guard, texts: list[Text], judged: JudgedTexts) -> list[str]:
    """Say how the last guard does on labelled rows: what error-corrected rates need of it."""
    decided = [
        (text.is_unsafe, row.is_unsafe)
        for text, row in zip(texts, judged.rows, strict=True)
        if text.is_unsafe is not None and row.is_unsafe is not None
    ]
    unsafe = [said for label, said in decided if label]
    safe = [said for label, said in decided if not label]
    if not unsafe or not safe:
        return []
    found, cleared = sum(unsafe), len(safe) - sum(safe)
    return [
        f"{short_name(last.name)} against the labels: sensitivity {found / len(unsafe):.3f} ({found}/{len(unsafe)}), "
        f"specificity {cleared / len(safe):.3f} ({cleared}/{len(safe)})"
    ]
