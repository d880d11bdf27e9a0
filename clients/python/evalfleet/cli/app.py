"""The command group: global options, commands of this and of other distributions, errors as one line."""

import difflib
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import click

from evalfleet.cli import (
    budget,
    bulk,
    calibrate_guard,
    calibrate_judge,
    classify,
    compare,
    completion,
    doctor,
    export,
    gate,
    generate,
    guards,
    import_task,
    items,
    models,
    plan,
    prune,
    rank,
    regressions,
    report,
    run,
    runs,
    score,
    scorers,
    servers,
    suites,
)
from evalfleet.cli.failures import explained
from evalfleet.cli.session import Session
from evalfleet.endpoints import SERVICES, default_state_dir
from evalfleet.errors import EvalFleetError

PLUGIN_GROUP = "evalfleet.commands"
# Commands that other distributions bring, and what to install for them.
_PLUGIN_HINTS = {
    "dashboard": "pip install 'evalfleet-services[dashboard]'",
    "distill-guard": "pip install 'evalfleet-services[ngrams]'",
    "up": "pip install 'evalfleet-services[standalone]'",
}
# What belongs together, in the order of first use; a command of another distribution that is not named here comes last.
_SECTIONS = (
    ("Fleet", ("up", "dashboard", "doctor", "servers", "completion")),
    ("Evaluate", ("run", "gate", "plan", "budget")),
    ("Runs", ("runs", "show", "watch", "report", "export", "cancel", "prune")),
    ("Compare", ("compare", "rank", "rankings", "regressions", "items")),
    ("Models and suites", ("models", "suites", "generate", "import-task")),
    ("Safety and scores", ("classify", "guards", "policies", "score", "scorers", "bulk")),
    ("Calibrate", ("calibrate-guard", "calibrate-judge", "distill-guard")),
)


class FleetGroup(click.Group):
    """A group that adds the commands of the entry-point group `evalfleet.commands` and reports our errors plainly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List our commands and the plug-ins', ordered by name."""
        return sorted({*super().list_commands(ctx), *(each.name for each in _plugins())})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in sections."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = {name: each for name, each in commands.items() if each is not None and not each.hidden}
        width = formatter.width - 6 - max((len(name) for name in shown), default=0)
        named = {name for _, names in _SECTIONS for name in names}
        for title, names in (*_SECTIONS, ("Other commands", tuple(name for name in shown if name not in named))):
            rows = [(name, shown[name].get_short_help_str(width)) for name in names if name in shown]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command here or among the plug-ins."""
        own = super().get_command(ctx, cmd_name)
        return own or next((_loaded(each) for each in _plugins() if each.name == cmd_name), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the named command; an unknown name is answered with what to install or the nearest name."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            if name in _PLUGIN_HINTS:
                ctx.fail(f"`evalfleet {name}` comes with the services: {_PLUGIN_HINTS[name]}")
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"there is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; our own errors end in one message on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except EvalFleetError as error:
            raise click.ClickException(explained(error)) from None


def _plugins() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=PLUGIN_GROUP))


def _loaded(plugin: EntryPoint) -> click.Command:
    """Load a plug-in's command; one that cannot be imported still has a name and says what is missing."""
    try:
        command = plugin.load()
    except ImportError as error:
        hint = _PLUGIN_HINTS.get(plugin.name, f"pip install {plugin.dist.name if plugin.dist else 'it again'}")
        message = f"`evalfleet {plugin.name}` cannot be loaded ({error}): {hint}"

        @click.command(plugin.name, short_help=f"Not available: {hint}", add_help_option=False)
        @click.argument("_arguments", nargs=-1, type=click.UNPROCESSED)
        def unavailable(_arguments: tuple[str, ...]) -> None:
            raise click.ClickException(message)

        unavailable.context_settings["ignore_unknown_options"] = True
        return unavailable
    if not isinstance(command, click.Command):
        raise click.ClickException(f"the entry point {plugin.value!r} is no click command")
    return command


def _parsed_targets(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    targets = {}
    for value in values:
        service, equals, target = value.partition("=")
        if service not in SERVICES or not equals or not target:
            raise click.BadParameter(f"{value!r} is not SERVICE=HOST:PORT with SERVICE one of {', '.join(SERVICES)}")
        targets[service] = target
    return targets


@click.group(
    cls=FleetGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  evalfleet up                                  start a fleet on this machine
  evalfleet run --model out/step-100 --suite demo
  evalfleet gate 'gsm8k>=0.55' --model out/step-100    few items, exit code 0 or 1
  evalfleet runs                                what was run
  evalfleet show RUN --failed                   its table and its failed items
  evalfleet compare BASE VARIANT --margin 0.01  did the variant lose anything?
  evalfleet rank MODEL MODEL MODEL --task gsm8k which is the best?
  evalfleet report RUN...                       one HTML file of all that was found

Each command has --help with more examples.""",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="State folder of the fleet on this machine.  [default: $EVALFLEET_STATE_DIR or ~/.evalfleet]",
)
@click.option(
    "--endpoint",
    "targets",
    multiple=True,
    metavar="SERVICE=HOST:PORT",
    callback=_parsed_targets,
    help="Where a service is, instead of $EVALFLEET_<SERVICE>_TARGET or the fleet on this machine; repeatable.",
)
@click.version_option(version("evalfleet"), prog_name="evalfleet")
@click.pass_context
def cli(ctx: click.Context, state_dir: Path | None, targets: dict[str, str]) -> None:
    """Evaluate language-model checkpoints: how capable, how safe, better than the last one?"""
    ctx.obj = ctx.with_resource(Session(state_dir=state_dir or default_state_dir(), targets=targets))


for command in (
    run.run,
    gate.gate,
    plan.plan,
    budget.budget,
    runs.runs,
    runs.show,
    runs.watch,
    runs.cancel,
    prune.prune,
    compare.compare,
    rank.rank,
    rank.rankings,
    items.items,
    regressions.regressions,
    report.report,
    export.export_run,
    models.models,
    suites.suites,
    scorers.scorers,
    score.score,
    classify.classify,
    guards.guards,
    guards.policies,
    calibrate_guard.calibrate_guard,
    calibrate_judge.calibrate_judge,
    generate.generate,
    import_task.import_task,
    bulk.bulk,
    doctor.doctor,
    servers.servers,
    completion.completion,
):
    cli.add_command(command)
