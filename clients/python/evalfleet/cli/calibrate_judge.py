"""`evalfleet calibrate-judge`: how a language model judges texts that people have judged."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from evalfleet.calibration.document import write_document
from evalfleet.calibration.judge_record import judge_record
from evalfleet.calibration.judged_rows import judge_rows, read_labelled
from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.reports import results_console
from evalfleet.cli.scorer_parameters import parsed_parameters
from evalfleet.cli.session import Session
from evalfleet.cli.tables import plain_table


@click.command(
    "calibrate-judge",
    epilog="""\b
Examples:
  evalfleet calibrate-judge rated.jsonl --judge judge-7b --passes 4 --passes 5 --out judge.json
  evalfleet calibrate-judge rated.jsonl --judge judge-7b -p scale='[0, 9]' -p pass_from=7
  evalfleet calibrate-judge pairs.jsonl --judge judge-7b --rubric preference --out judge.json
  evalfleet show RUN --guard-quality passed=@judge.json

\b
Each line of ROWS is a JSON object: {"prompt": …, "response": …, "label": …}. The label is the
verdict that people gave: one of the rubric's, or of a comparison (with "baseline": …) response,
baseline or tie. A rubric that wants reference answers needs "reference": a text or a list.""",
)
@click.argument("rows", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="MODEL",
    shell_complete=completes("models"),
    help="The judge; default: the service's. Repeatable.",
)
@click.option("--rubric", default="quality", show_default=True, help="By what it judges.")
@click.option(
    "--criteria", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="File that replaces the criteria."
)
@click.option("--votes", type=click.IntRange(1, 32), default=1, show_default=True, help="Answers of each judge.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="Of each answer.")
@click.option("--plain", is_flag=True, help="The judge has no chat template.")
@click.option(
    "--parameter",
    "-p",
    "others",
    multiple=True,
    metavar="NAME=VALUE",
    callback=parsed_parameters,
    help="Any other parameter of llm_judge (scale, pass_from, max_tokens, seed …), as JSON or plain text; repeatable. "
    "A record corrects the rates of a judge with the same ones alone.",
)
@click.option(
    "--passes", multiple=True, metavar="LABEL", help="A label that counts as passing; repeatable. Default: response."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Calibration record to write.")
@json_option
@click.pass_obj
def calibrate_judge(
    session: Session,
    rows: Path,
    judges: tuple[str, ...],
    rubric: str,
    criteria: Path | None,
    votes: int,
    temperature: float,
    plain: bool,
    others: dict[str, object],
    passes: tuple[str, ...],
    out: Path | None,
    json_path: Path | None,
) -> None:
    """Measure a judge on texts that people judged.

    Has it judge ROWS and says how far it agrees with their labels, how often it gives no verdict, how often it is right
    on texts that pass and that fail, and in comparisons whether the place of a response decides.
    """
    parameters: dict[str, Any] = {"judges": list(judges), "rubric": rubric, "votes": votes, "temperature": temperature}
    if criteria is not None:
        parameters["criteria"] = criteria.read_text(encoding="utf-8")
    if plain:
        parameters["format"] = "plain"
    if twice := sorted(parameters.keys() & others.keys()):
        raise click.BadParameter(f"has an option of its own: {', '.join(twice)}", param_hint="-p")
    parameters |= others
    texts = read_labelled(rows)
    with session.err.status("asking the judge") as status:
        judged = judge_rows(
            session.fleet.scoring,
            texts.rows,
            parameters,
            report=lambda done: status.update(f"{done:,}/{len(texts.rows):,} rows"),
        )
    record = judge_record(judged, texts, parameters, passing=passes, source=rows.name)
    console = results_console(session, json_path)
    if not write_json(record, json_path):
        _show(console, record)
    if out is not None:
        write_document(out, record)
        console.print(f"{out}, digest {record['digest']}", markup=False, soft_wrap=True)


def _show(console: Console, record: dict[str, Any]) -> None:
    table = plain_table("measure", ">value", ">95 % interval", ">rows")
    table.add_row(*_share_row("no verdict", record["errors"]))
    table.add_row(*_share_row("agreement with the labels", record["agreement"]))
    kappa = record["kappa"]
    name = "kappa" if kappa["weights"] == "none" else "kappa, weighted"
    answered = str(record["agreement"]["of"])
    table.add_row(name, *_value_cells(kappa), answered)
    if (quality := record["quality"]) is not None:
        table.add_row(*_share_row("sensitivity: passes what passes", quality["sensitivity"]))
        table.add_row(*_share_row("specificity: fails what fails", quality["specificity"]))
    if (position := record["position"]) is not None:
        table.add_row("the order decides", *_value_cells(position["position_inconsistent"]), answered)
        table.add_row("prefers what is first", *_value_cells(position["first_preferred"]), answered)
    if (votes := record["votes"]) is not None:
        table.add_row("agreement of the votes", *_value_cells(votes["agreement"]), answered)
        table.add_row("Fleiss' kappa of the votes", *_value_cells(votes["fleiss_kappa"]), answered)
    console.print(table)
    lines = [f"judge: {record['judge']['name']}, digest {record['judge']['digest']}"]
    lines += [f"{count} rows without a verdict: {reason}" for reason, count in record["errors"]["reasons"].items()]
    cost = record["cost"]
    lines.append(f"{cost['computed_tokens']:,} tokens computed, {cost['cached_rows']:,} rows known")
    if quality is None:
        lines.append("say with --passes which labels pass, for sensitivity and specificity; both kinds must be there")
    else:
        counts = "{passing_found}/{passing_count},{failing_found}/{failing_count}".format(**quality)
        lines.append(f"for rates without its errors: evalfleet show RUN --guard-quality passed={counts}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _share_row(name: str, share: dict[str, Any]) -> tuple[str, str, str, str]:
    value = {"value": share["share"], "interval": share["interval"]}
    return name, *_value_cells(value), f"{share['count']}/{share['of']}"


def _value_cells(value: dict[str, Any]) -> tuple[str, str]:
    interval = value["interval"]
    told = "–" if interval is None else f"{interval[0]:.3f} … {interval[1]:.3f}"
    return "–" if value["value"] is None else f"{value['value']:.3f}", told
