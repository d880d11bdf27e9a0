"""`--plot`: the paired differences of a comparison as a drawing."""

from pathlib import Path

import click

from evalfleet.comparison_results import ComparedRuns
from evalfleet.errors import MissingExtraError
from evalfleet.extras import needed
from evalfleet.reports.facts import labels_of
from evalfleet.reports.figures import FORMATS, difference_figure, save
from evalfleet.results import Run


class PlotError(click.ClickException):
    """A drawing could not be written; the exit code 1 of a comparison would be an answer."""

    exit_code = 2


def check_plot(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    """Make sure that a plot can be drawn, before a comparison that may take long.

    Raises:
        UsageError: the name ends otherwise than with a format, its folder does not exist, or matplotlib is not there.
    """
    if path is None:
        return None
    if path.suffix.removeprefix(".") not in FORMATS:
        raise click.BadParameter(f"{path.name!r} does not end with .{' or .'.join(FORMATS)}")
    if not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist")
    try:
        needed("matplotlib", extra="plots")
    except MissingExtraError as error:
        raise click.UsageError(error.message) from None
    return path


def write_difference_plot(compared: ComparedRuns, runs: tuple[Run, Run], margin: float | None, path: Path) -> None:
    """Draw the differences, variant − base, with their intervals.

    Raises:
        PlotError: the file could not be written.
    """
    base, variant = labels_of(runs)
    try:
        save(difference_figure(compared, base, variant, margin), path)
    except OSError as error:
        raise PlotError(f"{path} cannot be written: {error.strerror}") from None
