"""What the commands say, as JSON for programs: one option, and one place that writes it.

A value is written as its dataclass has it: an object with its fields by their names, a sequence as an array, a time in
ISO 8601, a word of an enumeration as that word, a number that is none (``nan``) as null. Commands that list print an
array. docs/json.md says which dataclass each command writes.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from evalfleet.errors import EvalFleetError

STANDARD_OUTPUT = Path("-")


def _checked(_ctx: click.Context, _param: click.Parameter, given: str | None) -> Path | None:
    """Refuse a path that cannot be written, before a long run instead of after it, and what may not be meant as one."""
    if given is None:
        return None
    path = Path(given)
    if path != STANDARD_OUTPUT and not {".", os.sep} & set(given):
        # As in `suites --json demo`.
        raise click.BadParameter(f"{given!r} may be a name: a file is ./{given}; without a file, --json comes last")
    if not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist")
    return path


json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    callback=_checked,
    help="Also write the answer as JSON to this file; without FILE, or with -, to standard output, which then carries "
    "nothing else.",
)


def write_json(value: object, path: Path | None, *, failure: type[click.ClickException] = click.ClickException) -> bool:
    """Write ``value`` if JSON is wanted, and return whether standard output carries it: tables have no place there.

    Args:
        value: see ``json_text``.
        path: of the option; None: nothing is written.
        failure: what to raise, which decides the exit code.

    Raises:
        ClickException: the file could not be written.
    """
    if path is None:
        return False
    if path == STANDARD_OUTPUT:
        click.echo(json_text(value))
        return True
    try:
        path.write_text(json_text(value) + "\n", encoding="utf-8")
    except OSError as error:
        raise failure(f"{path} cannot be written: {error.strerror}") from None
    return False


def json_text(value: object) -> str:
    """Write a value of the library as JSON.

    Raises:
        TypeError: it holds something that is neither a dataclass nor plain.
    """
    return json.dumps(plain(value), indent=2, allow_nan=False)


def fields_of(value: Any) -> dict[str, object]:
    """Return the fields of a dataclass's value by their names, to write more beside them."""
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


def error_fields(error: EvalFleetError) -> dict[str, str]:
    """Return what is told of one error among several outcomes."""
    return {"reason": error.reason, "message": error.explanation()}


def plain(value: object) -> object:
    """Turn dataclasses, sequences and mappings of them into what JSON has.

    Raises:
        TypeError: there is no JSON for a part of it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(each) for name, each in fields_of(value).items()}
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        # Of an enumeration, its word.
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [plain(each) for each in value]
    raise TypeError(f"no JSON for {type(value).__name__}")
