"""The command `evalfleet dashboard`."""

import sys
from pathlib import Path
from typing import Any

import click
from evalfleet.cli.session import Session
from evalfleet.endpoints import default_state_dir
from pydantic import ValidationError

from services.dashboard.settings import PREFIX, DashboardSettings
from services.runtime.errors import StartupError


@click.command(
    epilog=f"""\b
Examples:
  evalfleet dashboard                           of the fleet on this machine; prints a link to open
  evalfleet dashboard --port 9000 --guard-records records/
  {PREFIX}TOKEN_FILE=/run/secrets/dashboard evalfleet dashboard --host 0.0.0.0 \\
      --allowed-host eval.example.org --tls-certificate server.pem --tls-key server.key

\b
It only reads. Programs may look, too: curl -H "Authorization: Bearer TOKEN" ...
All settings are also environment variables: {PREFIX}HOST, {PREFIX}PORT, ...""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: 8130]")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A name that browsers call it by, beside this machine's own; repeatable.",
)
@click.option("--tls-certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM file.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM file of its key.")
@click.option(
    "--guard-records",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the records of calibrate-guard and calibrate-judge.",
)
@click.option("--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="Also write the link to this file.")
@click.pass_context
def dashboard(ctx: click.Context, /, *, ready_file: Path | None, **given: Any) -> None:
    """Show runs, models, outputs, guards and costs in a browser.

    Live runs, a leaderboard across checkpoints, each run as its report, two runs' outputs side by side, how good the
    guards are, and what every day and team cost. Whoever has the token may look; nobody can change anything.
    """
    # Help must come at once.
    from services.dashboard.serving import serve_dashboard

    session = ctx.find_object(Session) or ctx.with_resource(Session(state_dir=default_state_dir(), targets={}))

    def tell(link: str) -> None:
        session.out.print(f"The dashboard is at {link}", soft_wrap=True)
        session.out.print("Ctrl-C stops it.")
        if ready_file is not None:
            # The link lets whoever reads it in.
            partial = ready_file.with_name(f"{ready_file.name}.part")
            partial.unlink(missing_ok=True)
            partial.touch(mode=0o600)
            partial.write_text(link, encoding="utf-8")
            partial.replace(ready_file)

    try:
        settings = DashboardSettings(**{name: value for name, value in given.items() if value not in (None, ())})
        serve_dashboard(settings, session.fleet, tell)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        click.echo(f"Error: {problems}", err=True)
        sys.exit(2)
    except StartupError as error:
        click.echo(f"Error: {error.message}", err=True)
        sys.exit(1)
