"""`evalfleet report`: runs as one HTML file that anybody can open, and as figures."""

from pathlib import Path

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.quality_options import guard_quality_option
from evalfleet.cli.session import Session
from evalfleet.names import short_name
from evalfleet.reports import gather_report, report_page
from evalfleet.reports.gathering import DEFAULT_ITEMS
from evalfleet.results import GuardQuality

_MOST_ITEMS = 20_000


@click.command(
    epilog="""\b
Examples:
  evalfleet report demo-1a2b3c                          writes report-demo-1a2b3c.html
  evalfleet report demo-1a2b3c --out report.html --items 1000
  evalfleet report run-100 run-200 run-300              checkpoints, in the order of training
  evalfleet report demo-1a2b3c --guard-quality unsafe=@guard.json
  evalfleet report demo-1a2b3c --plots figures/         also PNG and SVG

\b
The file needs nothing else: it opens without a network, prints, and fits a phone. It has the
decisions first, then estimates with intervals, safety by hazard, the way along the
checkpoints, cost and savings, failures, and items to read and search. Texts that models
wrote are shown, never run."""
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completes("runs"))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file; default: report-RUN.html, named for the last run.",
)
@click.option(
    "--items",
    "item_count",
    type=click.IntRange(0, _MOST_ITEMS),
    default=DEFAULT_ITEMS,
    show_default=True,
    help="Most items to embed: those that failed first, then the wrong ones, evenly over runs and tasks.",
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write the figures as PNG and SVG into this folder (pip install 'evalfleet[plots]').",
)
@guard_quality_option
@json_option
@click.pass_obj
def report(
    session: Session,
    runs: tuple[str, ...],
    *,
    out: Path | None,
    item_count: int,
    plots: Path | None,
    guard_qualities: tuple[GuardQuality, ...],
    json_path: Path | None,
) -> None:
    """Write a report of RUN, or of several checkpoints' runs, as one HTML file."""
    path = out or Path(f"report-{short_name(runs[-1])}.html")
    if not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist", param_hint="--out")
    if plots is not None:
        # Asked first: what is missing is not to be found out after the run was read.
        from evalfleet.extras import needed

        needed("matplotlib", extra="plots")
    try:
        facts = gather_report(session.fleet, runs, item_count=item_count, guard_qualities=guard_qualities)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        written = path.write_text(report_page(facts), encoding="utf-8")
        figures = []
        if plots is not None:
            from evalfleet.reports.figures import write_figures

            figures = write_figures(facts, plots)
    except OSError as error:
        raise click.ClickException(f"{error.filename or path} cannot be written: {error.strerror}") from None
    told = {
        "file": str(path),
        "embedded_count": len(facts.items),
        "outcome_count": facts.item_total,
        "figures": [str(each) for each in figures],
    }
    if write_json(told, json_path):
        return
    embedded = f"{len(facts.items):,} of {facts.item_total:,} outcomes embedded"
    session.out.print(f"{path}: {written / 1024:,.0f} KiB, {embedded}", markup=False, soft_wrap=True)
    if figures:
        session.out.print(f"{plots}: {len(figures)} figures", markup=False, soft_wrap=True)
