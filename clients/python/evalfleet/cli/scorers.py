"""`evalfleet scorers`: who can judge outputs for capability, and with which parameters."""

import json
from collections.abc import Iterable
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.cli.tables import plain_table
from evalfleet.names import short_name
from evalfleet.scorer_results import Scorer, ScorerField


@click.command(
    epilog="""\b
Examples:
  evalfleet scorers                     the scorers of the scoring service
  evalfleet scorers exact_match         its parameters, metrics and digest
  evalfleet score --scorer exact_match --file outputs.jsonl"""
)
@click.argument("names", nargs=-1, metavar="[SCORER]...", shell_complete=completes("scorers"))
@json_option
@click.pass_obj
def scorers(session: Session, names: tuple[str, ...], *, json_path: Path | None) -> None:
    """List the scorers, or show what one measures, its parameters and exactly which one it is."""
    found = [session.fleet.scoring.scorer(each) for each in names] if names else session.fleet.scoring.scorers()
    if write_json(found, json_path):
        return
    if not names:
        session.out.print(_scorers_table(found))
        return
    for scorer in found:
        _show(session, scorer)


def _scorers_table(found: Iterable[Scorer]) -> Table:
    table = plain_table("scorer", "version", "metrics", "what it is")
    for scorer in found:
        metrics = " ".join(each.name for each in scorer.metrics)
        table.add_row(short_name(scorer.name), scorer.reference.version, metrics, Text(scorer.description))
    return table


def _show(session: Session, scorer: Scorer) -> None:
    reference = scorer.reference
    session.out.print(f"{scorer.name}: {scorer.description}", markup=False, soft_wrap=True)
    session.out.print(
        f"version {reference.version}, digest {reference.digest} at default parameters", markup=False, soft_wrap=True
    )
    if scorer.reads_prompt:
        session.out.print("reads the prompt of each output", markup=False)
    if scorer.takes_long:
        session.out.print("may take seconds for an output", markup=False)
    if scorer.libraries:
        versions = ", ".join(f"{name} {version}" for name, version in scorer.libraries.items())
        session.out.print(f"decided by libraries, too: {versions}", markup=False, soft_wrap=True)
    metrics = plain_table("metric", "better", "what it means")
    for metric in scorer.metrics:
        metrics.add_row(metric.name, "higher" if metric.higher_is_better else "lower", Text(metric.description))
    session.out.print(metrics)
    for what, fields in (("parameter", scorer.parameters), ("detail", scorer.details)):
        if fields:
            session.out.print(_fields_table(what, fields))


def _fields_table(what: str, fields: Iterable[ScorerField]) -> Table:
    table = plain_table(what, "type", "default", "what it does")
    for field in fields:
        default = "required" if field.is_required else json.dumps(field.default, ensure_ascii=False)
        table.add_row(field.name, field.type, Text(default), Text(field.description))
    return table
