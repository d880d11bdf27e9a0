"""Shell completion: `evalfleet completion SHELL`, and the names that the fleet knows.

A shell waits while the user does, so a fleet that is away or slow costs a moment and completes nothing; nothing that
goes wrong is told, since it would be told in the middle of the line that is being typed.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import click
from click.shell_completion import CompletionItem, get_completion_class

from evalfleet.endpoints import default_state_dir
from evalfleet.fleet import Fleet
from evalfleet.names import full_name, short_name

COMPLETE_VARIABLE: Final = "_EVALFLEET_COMPLETE"
"""Set by the shell when it asks for completions; the code of `evalfleet completion` sets it, too."""
SHELLS = ("bash", "zsh", "fish")

_DEADLINE_SECONDS = 1.5
_MOST_RUNS = 200

_Source: TypeAlias = Callable[[Fleet, str], Iterable[str]]
_Complete: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _tasks(fleet: Fleet, suite: str) -> Iterable[str]:
    found = [fleet.suites.get(suite)] if suite else fleet.suites.list()
    return {task.name for each in found for task in each.tasks}


# Collection of the resource names → what lists them, of a fleet and the suite that the line names.
_SOURCES: Mapping[str, _Source] = {
    "runs": lambda fleet, suite: [each.name for each in fleet.runs.list(limit=_MOST_RUNS)],
    "rankings": lambda fleet, suite: [each.name for each in fleet.rankings.list()],
    "models": lambda fleet, suite: [each.name for each in fleet.models.list()],
    "suites": lambda fleet, suite: [each.name for each in fleet.suites.list()],
    "tasks": _tasks,
    "scorers": lambda fleet, suite: [each.name for each in fleet.scoring.scorers()],
    "guards": lambda fleet, suite: [each.name for each in fleet.safety.guards()],
    "policies": lambda fleet, suite: [each.name for each in fleet.safety.policies()],
}


@click.command(
    epilog="""\b
Examples:
  eval "$(evalfleet completion bash)"           in ~/.bashrc
  eval "$(evalfleet completion zsh)"            in ~/.zshrc
  evalfleet completion fish > ~/.config/fish/completions/evalfleet.fish

\b
Then <Tab> completes commands and options, and the names of runs, models, suites, tasks, guards,
policies and scorers of the fleet that the line means. A fleet that is away completes nothing."""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and the fleet's names."""
    found = get_completion_class(shell)
    assert found is not None, "click knows all of SHELLS"
    click.echo(found(ctx.find_root().command, {}, "evalfleet", COMPLETE_VARIABLE).source())


def completes(collection: str, *, folders: bool = False) -> _Complete:
    """Return what completes names of a collection (``runs``, ``models`` …), or of folders where no name begins so.

    Args:
        collection: ``models`` completes ``step-100`` and, where ``models/`` is typed, ``models/step-100``.
        folders: whether the value may be a folder, too.
    """

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        is_path = folders and not incomplete.startswith(f"{collection}/") and incomplete.startswith((".", "/", "~"))
        names = [] if is_path else _names(ctx, collection)
        if incomplete.startswith(f"{collection}/"):
            names = [full_name(collection, each) for each in names]
        found = [CompletionItem(each) for each in names if each.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type="dir")] if folders else [])

    return complete


def _names(ctx: click.Context, collection: str) -> list[str]:
    """Ask the fleet for its names; those that came in time, none of what went wrong."""
    options = ctx.find_root().params
    state_dir, targets = options.get("state_dir"), options.get("targets") or {}
    suite = ctx.params.get("suite") or ""
    found: list[str] = []

    def ask() -> None:
        with (
            suppress(Exception),
            Fleet.connect(targets, state_dir=Path(state_dir) if state_dir else default_state_dir()) as fleet,
        ):
            found.extend(sorted({short_name(each) for each in _SOURCES[collection](fleet, suite)}))

    # Connecting has its own, longer limits; whoever waits for <Tab> has none.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_DEADLINE_SECONDS)
    return list(found)
