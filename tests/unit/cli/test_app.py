import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from evalfleet.cli import app
from evalfleet.cli.app import cli

Invoke = Callable[..., Result]


def with_plugins(monkeypatch: pytest.MonkeyPatch, *plugins: EntryPoint) -> None:
    monkeypatch.setattr(app, "entry_points", lambda group: plugins if group == "evalfleet.commands" else ())


@click.command()
def extra() -> None:
    """Say hello."""
    click.echo("hello")


BULK = (("bulk", "classify"), ("bulk", "score"), ("bulk", "generate"))


def test_every_command_teaches_with_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    with_plugins(monkeypatch)
    context = click.Context(cli)
    commands = {(): cli} | {(name,): cli.commands[name] for name in cli.list_commands(context)}
    for path in [*commands, ("models", "add"), ("models", "connect"), *BULK]:
        result = CliRunner().invoke(cli, [*path, "--help"])
        assert result.exit_code == 0
        assert "Example" in result.output, path
        assert max(len(line) for line in result.output.splitlines()) <= 100, path


def test_other_distributions_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    import evalfleet.cli.app as module

    monkeypatch.setattr(module, "_loaded", lambda plugin: extra)
    with_plugins(monkeypatch, EntryPoint("extra", "some.module:extra", "evalfleet.commands"))
    assert "extra" in CliRunner().invoke(cli, ["--help"]).output
    assert CliRunner().invoke(cli, ["extra"]).output == "hello\n"


def test_a_command_whose_package_is_incomplete_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with_plugins(monkeypatch, EntryPoint("up", "no_such_module.command:up", "evalfleet.commands"))
    assert "evalfleet-services[standalone]" in CliRunner().invoke(cli, ["--help"]).output
    result = CliRunner().invoke(cli, ["up", "--port-base", "0"])
    assert result.exit_code == 1
    assert "cannot be loaded (No module named 'no_such_module')" in result.stderr
    assert "pip install 'evalfleet-services[standalone]'" in result.stderr


def test_up_without_the_services_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with_plugins(monkeypatch)
    result = CliRunner().invoke(cli, ["up"])
    assert result.exit_code == 2
    assert "`evalfleet up` comes with the services: pip install 'evalfleet-services[standalone]'" in result.stderr


def test_an_unknown_command_gets_the_nearest_name() -> None:
    result = CliRunner().invoke(cli, ["modles"])
    assert result.exit_code == 2
    assert "there is no command 'modles'; did you mean 'models'?" in result.stderr
    assert "did you mean" not in CliRunner().invoke(cli, ["zzz"]).stderr


@pytest.mark.parametrize("given", ["saftey=a:1", "safety", "safety="])
def test_a_malformed_endpoint_is_wrong_usage(given: str) -> None:
    result = CliRunner().invoke(cli, ["--endpoint", given, "models"])
    assert result.exit_code == 2
    assert "SERVICE=HOST:PORT" in result.stderr


def test_without_a_fleet_the_message_says_how_to_start_one(tmp_path: Path) -> None:
    result = CliRunner(env={"EVALFLEET_STATE_DIR": str(tmp_path)}).invoke(cli, ["runs"])
    assert result.exit_code == 1
    assert "start a fleet with `evalfleet up`" in result.stderr
    assert f"no fleet has written {tmp_path}/fleet.json" in result.stderr


def run_main(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_without_the_extra_the_message_says_what_to_install() -> None:
    result = run_main(
        "import sys; sys.modules['click'] = None\nfrom evalfleet.cli.main import main\nsys.argv = ['evalfleet']\nmain()"
    )
    assert result.returncode == 1
    assert result.stderr == "Error: the command line needs click: pip install 'evalfleet[cli]'\n"


def test_a_bug_ends_in_a_line_and_not_in_a_traceback() -> None:
    result = run_main(
        "import sys\nfrom evalfleet.cli.main import main\nfrom evalfleet.cli.session import Session\n"
        "Session.fleet = property(lambda self: {}['x'])\nsys.argv = ['evalfleet', 'runs']\nmain()"
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Error: unexpected KeyError: 'x'" in result.stderr
