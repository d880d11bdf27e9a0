"""The command `evalfleet up`, also `python -m services.standalone`."""

import sys
from pathlib import Path
from typing import Literal

import click
from evalfleet.cli.session import Session, make_console

from services.runtime.errors import StartupError

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  evalfleet up
  evalfleet up --checkpoint-root ~/checkpoints --data-dir ~/benchmarks
  evalfleet up --inference local                where Triton does not run (macOS, Arm, laptops)
  evalfleet up --state-dir ~/.evalfleet-two --port-base 8200   a second fleet

\b
Ports from the base: evaluation +0, generation +1, safety +2, scoring +3, aggregation +4,
Triton +10 (metrics +11), metrics of the services +20 to +24. All on 127.0.0.1.""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--state-dir", type=_FOLDER, help="Logs, databases, caches.  [default: $EVALFLEET_STATE_DIR or ~/.evalfleet]"
)
@click.option("--port-base", type=int, default=8100, show_default=True, help="First port; 0 takes free ones.")
@click.option(
    "--inference",
    type=click.Choice(["triton", "local"]),
    default="triton",
    show_default=True,
    help="Triton Inference Server, or the same engines in a process of our own.",
)
@click.option(
    "--data-dir", "data_dirs", type=_FOLDER, multiple=True, help="Benchmark data; repeatable.  [$EVALFLEET_DATA_DIR]"
)
@click.option(
    "--checkpoint-root",
    "checkpoint_roots",
    type=_FOLDER,
    multiple=True,
    help="Checkpoints may be loaded from below this folder; repeatable.  "
    "[default: $EVALFLEET_CHECKPOINT_ROOTS or the current folder]",
)
@click.option(
    "--suite-dir",
    "suite_dirs",
    type=_FOLDER,
    multiple=True,
    help="Further suites/ and tasks/ in YAML; repeatable.  [$EVALFLEET_SUITE_DIRS]",
)
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the endpoints, as JSON, to this file once all services are healthy.",
)
@click.option("--parent-pid", type=click.IntRange(min=1), hidden=True, help="Stop when this process ends.")
@click.pass_context
def up(
    ctx: click.Context,
    *,
    state_dir: Path | None,
    port_base: int,
    inference: Literal["triton", "local"],
    data_dirs: tuple[Path, ...],
    checkpoint_roots: tuple[Path, ...],
    suite_dirs: tuple[Path, ...],
    ready_file: Path | None,
    parent_pid: int | None,
) -> None:
    """Start a fleet on this machine and keep it running until Ctrl-C.

    Triton and the five services listen on loopback only; whoever can log in to this machine can use them. A process
    that dies is reported and started again. Exit code: 0 after Ctrl-C, 1 when the fleet cannot start or go on.
    """
    # Help must come at once, and these bring gRPC and asyncio with them.
    from services.standalone.options import FleetOptions
    from services.standalone.running import run_fleet

    session = ctx.find_object(Session)
    try:
        options = FleetOptions.collect(
            state_dir=state_dir or (session.state_dir if session else None),
            port_base=port_base,
            inference=inference,
            data_dirs=data_dirs,
            checkpoint_roots=checkpoint_roots,
            suite_dirs=suite_dirs,
        )
        run_fleet(options, make_console(), ready_file=ready_file and ready_file.absolute(), parent_pid=parent_pid)
    except StartupError as error:
        click.echo(f"Error: {error.message}", err=True)
        sys.exit(1)
