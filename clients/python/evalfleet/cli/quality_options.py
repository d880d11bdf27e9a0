"""`--guard-quality`: how good whoever counted a rate is."""

import re
from pathlib import Path

import click

from evalfleet.calibration.quality_records import read_quality
from evalfleet.results import GuardQuality

_COUNT = r"([0-9]{1,15})"
_QUALITY = re.compile(rf"(?:([^=]+)=)?{_COUNT}/{_COUNT},{_COUNT}/{_COUNT}")


def _parsed(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[GuardQuality, ...]:
    qualities = []
    for value in values:
        metric, at, file = value.partition("=@")
        if at and metric:
            qualities.append(read_quality(Path(file), metric))
            continue
        match = _QUALITY.fullmatch(value)
        if match is None:
            raise click.BadParameter(
                f"{value!r} is not [METRIC=]FOUND/UNSAFE,CLEARED/SAFE, for example 182/200,391/400, or METRIC=@FILE"
            )
        found, unsafe, cleared, safe = (int(each) for each in match.groups()[1:])
        qualities.append(GuardQuality(match[1] or "unsafe", unsafe, found, safe, cleared))
    return tuple(qualities)


guard_quality_option = click.option(
    "--guard-quality",
    "guard_qualities",
    multiple=True,
    metavar="[METRIC=]FOUND/UNSAFE,CLEARED/SAFE",
    callback=_parsed,
    help="How the guard behind a metric (default: unsafe) did on labelled texts; its rate is corrected. METRIC=@FILE: "
    "a record of calibrate-judge, or of calibrate-guard with one guard, of exactly who judged the run. Repeatable.",
)
