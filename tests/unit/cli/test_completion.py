"""Shell completion: names of the fleet in time, and never a word about what went wrong."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from evalfleet.cli import completion
from evalfleet.cli.app import cli
from evalfleet.evaluation.v1 import evaluation_pb2

from services.runtime.free_ports import free_port
from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet
from tests.fakes.rankings import make_ranking

Complete = Callable[..., list[str]]


@pytest.fixture
def filled(fake: FakeFleet) -> FakeFleet:
    fake.models.put("step-100")
    fake.models.put("step-200")
    fake.models.put("other")
    fake.evaluation.put(make_run("r1", state=evaluation_pb2.RUN_STATE_SUCCEEDED))
    fake.rankings.script = [make_ranking()]
    return fake


@pytest.fixture
def complete(filled: FakeFleet) -> Complete:
    """What <Tab> offers behind `evalfleet ARGUMENTS`, of which the last is not finished."""

    def offered(*arguments: str) -> list[str]:
        endpoints = [f"--endpoint={service}={target}" for service, target in filled.targets.items()]
        shell = ShellComplete(cli, {}, "evalfleet", completion.COMPLETE_VARIABLE)
        return [each.value for each in shell.get_completions([*endpoints, *arguments[:-1]], arguments[-1])]

    return offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("show ", ["r1"]),
        ("cancel r", ["r1"]),
        ("show x", []),
        ("prune r1 ", ["r1"]),
        ("rankings ", ["rank-1"]),
        ("generate st", ["step-100", "step-200"]),
        ("run --model models/s", ["models/step-100", "models/step-200"]),
        ("run --suite ", ["demo"]),
        ("run --suite demo --task ", ["arithmetic", "harm"]),
        ("run --task a", ["arithmetic"]),
        ("items h", ["harm"]),
        ("suites d", ["demo"]),
        ("scorers ", ["exact_match"]),
        ("classify --guard ", ["minilm-hazard"]),
        ("classify x --policy ", ["strict"]),
        ("models r", ["rm"]),
        ("comp", ["compare", "completion"]),
        ("classify --aspect p", ["prompt"]),
    ],
)
def test_names_of_the_fleet_are_offered(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(*line.split(" ")) == offered


def test_a_folder_is_left_to_the_shell(complete: Complete, filled: FakeFleet) -> None:
    shell = ShellComplete(cli, {}, "evalfleet", completion.COMPLETE_VARIABLE)
    endpoints = [f"--endpoint=generation={filled.target}"]
    for typed in ("./out", "nobody"):
        (item,) = shell.get_completions([*endpoints, "run", "--model"], typed)
        assert (item.value, item.type) == (typed, "dir")


@pytest.mark.parametrize("endpoint", ["evaluation=127.0.0.1:{port}", "nonsense", "evaluation=nowhere.invalid:1"])
def test_a_fleet_that_is_away_offers_nothing(endpoint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = endpoint.format(port=free_port("127.0.0.1"))
    shell = ShellComplete(cli, {}, "evalfleet", completion.COMPLETE_VARIABLE)
    assert shell.get_completions([f"--state-dir={tmp_path}", f"--endpoint={told}", "show"], "") == []
    assert capfd.readouterr().err == ""


def asked(shell: str, line: str, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What the code of `evalfleet completion` asks when <Tab> is pressed behind `line`."""
    words = " ".join(["evalfleet", *options, line])
    told = {
        "COMP_WORDS": words,
        "COMP_CWORD": line.split(" ")[-1] if shell == "fish" else str(len(words.split(" ")) - 1),
    }
    return subprocess.run(
        [sys.executable, "-m", "evalfleet.cli.main"],
        env={**os.environ, **environment, **told, completion.COMPLETE_VARIABLE: f"{shell}_complete"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("shell", "expected"), [("bash", "plain,r1"), ("zsh", "plain\nr1\n_"), ("fish", "plain,r1")])
def test_each_shell_is_answered(filled: FakeFleet, shell: str, expected: str) -> None:
    result = asked(shell, "show r", f"--endpoint=evaluation={filled.target}")
    assert (result.stdout.strip(), result.stderr) == (expected, "")


def test_a_broken_installation_says_nothing_in_the_shell() -> None:
    code = "import sys; sys.modules['rich'] = None\nfrom evalfleet.cli.main import main\nmain()"
    told = {"COMP_WORDS": "evalfleet ", "COMP_CWORD": "1", completion.COMPLETE_VARIABLE: "bash_complete"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **told}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes_a_run(filled: FakeFleet, tmp_path: Path) -> None:
    """The printed code, in a real shell, with a program of the name on the path."""
    program = tmp_path / "evalfleet"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m evalfleet.cli.main "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(evalfleet completion bash)"; complete -p evalfleet; '
        "COMP_WORDS=(evalfleet show r); COMP_CWORD=2; _evalfleet_completion evalfleet r show; echo ${COMPREPLY[@]}"
    )
    result = subprocess.run(
        ["bash", "-c", script],
        env={
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "EVALFLEET_EVALUATION_TARGET": filled.target,
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[0].startswith("complete "), result
    assert lines[1:] == ["r1"]


def test_the_code_of_each_shell_is_printed() -> None:
    for shell in completion.SHELLS:
        result = CliRunner().invoke(cli, ["completion", shell])
        assert result.exit_code == 0
        assert f"{completion.COMPLETE_VARIABLE}={shell}_complete" in result.stdout
    assert CliRunner().invoke(cli, ["completion", "tcsh"]).exit_code == 2
