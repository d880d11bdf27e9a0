"""`evalfleet export`: a run's results in the formats of others."""

from pathlib import Path

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.exports import FORMATS, Publisher, export

_RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")


@click.command(
    name="export",
    epilog="""\b
Examples:
  evalfleet export gsm8k-1a2b3c --format parquet
  evalfleet export gsm8k-1a2b3c --format csv --out tables/
  evalfleet export gsm8k-1a2b3c --format inspect --out logs/     then: inspect view --log-dir logs
  evalfleet export gsm8k-1a2b3c --format lm-eval --out results/
  evalfleet export gsm8k-1a2b3c --format every-eval-ever --developer my-team

\b
Formats:
  every-eval-ever   Every Eval Ever 0.3.0: aggregate JSON and samples JSONL
  inspect           Inspect AI .eval logs, one a task    (pip install 'evalfleet[inspect]')
  lm-eval           lm-evaluation-harness results JSON and samples JSONL
  parquet           items and estimates as Parquet       (pip install 'evalfleet[parquet]')
  csv               items and estimates as CSV

\b
The run must have ended. A file is there whole or not at all; the same export again replaces it.""",
)
@click.argument("run", shell_complete=completes("runs"))
@click.option("--format", "format_name", required=True, type=click.Choice(tuple(FORMATS)), help="The format.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("exported"),
    show_default=True,
    help="The folder; it is made where there is none.",
)
@click.option("--developer", default="local", show_default=True, help="Every Eval Ever: who made the model.")
@click.option("--organization", default="unknown", show_default=True, help="Every Eval Ever: who evaluated it.")
@click.option(
    "--relationship",
    type=click.Choice(_RELATIONSHIPS),
    default=_RELATIONSHIPS[0],
    show_default=True,
    help="Every Eval Ever: what the two have to do with each other.",
)
@json_option
@click.pass_obj
def export_run(
    session: Session,
    run: str,
    *,
    format_name: str,
    out: Path,
    developer: str,
    organization: str,
    relationship: str,
    json_path: Path | None,
) -> None:
    """Write a run's results in the format of another tool."""
    publisher = Publisher(developer, organization, relationship)
    try:
        files = export(session.fleet, run, format_name, out, publisher=publisher)
    except OSError as error:
        raise click.ClickException(f"{error.filename or out} cannot be written: {error.strerror}") from None
    told = [{"file": str(each), "bytes": each.stat().st_size} for each in files]
    if write_json(told, json_path):
        return
    for each in files:
        session.out.print(f"{each}: {each.stat().st_size / 1024:,.0f} KiB", markup=False, soft_wrap=True)
