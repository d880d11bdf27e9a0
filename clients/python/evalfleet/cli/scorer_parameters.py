"""Parameters of scorers on the command line: NAME=VALUE."""

import json
from collections.abc import Iterable

import click


def parsed_parameters(_ctx: click.Context, _param: click.Parameter, values: Iterable[str]) -> dict[str, object]:
    """Read NAME=VALUE each, where the value is JSON or else plain text; a callback of click's options.

    Raises:
        click.BadParameter: one is not of that form.
    """
    parameters: dict[str, object] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        try:
            parameters[name] = json.loads(text)
        except ValueError:
            parameters[name] = text
    return parameters
