"""`evalfleet doctor`: its table, its JSON, its exit code, and checks that other distributions bring."""

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evalfleet.cli import doctor
from evalfleet.cli.app import cli
from evalfleet.doctor import Finding, FindingState

from tests.unit.cli.json_shapes import assert_shape

OK = Finding("machine", "python", FindingState.OK, "Python 3.11", is_needed=True)


def lacking(state_dir: Path) -> Iterator[Finding]:
    yield Finding("services", "tritonserver", FindingState.MISSING, "not here", "pip install it", is_needed=True)
    yield Finding("stores", "redis", FindingState.MISSING, f"not in {state_dir}", "apt-get install redis-server")


def complete(state_dir: Path) -> Iterator[Finding]:
    yield Finding("services", "tritonserver", FindingState.OK, "starts", is_needed=True)
    yield Finding("stores", "redis", FindingState.MISSING, "not here", "apt-get install redis-server")


def broken(state_dir: Path) -> Iterator[Finding]:
    raise RuntimeError("no idea")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "machine_findings", lambda state_dir: [OK])


def diagnosed(monkeypatch: pytest.MonkeyPatch, folder: Path, check: str | None, *arguments: str) -> Result:
    entries = [EntryPoint("services", check, "evalfleet.checks")] if check else []
    monkeypatch.setattr(doctor, "entry_points", lambda group: entries if group == "evalfleet.checks" else [])
    return CliRunner().invoke(cli, ["--state-dir", str(folder), "doctor", *arguments])


def test_what_is_missing_comes_with_its_command_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = diagnosed(monkeypatch, tmp_path, f"{__name__}:lacking")
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "services tritonserver missing needed not here" in lines
    assert "→ pip install it" in lines
    assert lines[-1] == "missing: tritonserver; 1 warnings"
    assert f"evalfleet --state-dir {tmp_path} up" in result.stdout


def test_what_a_default_fleet_does_not_need_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = diagnosed(monkeypatch, tmp_path, f"{__name__}:complete", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    for each in told:
        assert_shape(each, Finding)
    assert [each["subject"] for each in told] == ["python", "tritonserver", "redis", "fleet"]


def test_a_machine_without_the_services_cannot_start_a_fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = diagnosed(monkeypatch, tmp_path, None)
    assert result.exit_code == 1
    assert "→ pip install 'evalfleet-services[standalone]'" in result.stdout


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = diagnosed(monkeypatch, tmp_path, f"{__name__}:broken")
    assert result.exit_code == 0
    assert "its checks failed: RuntimeError: no idea" in result.stdout
    absent = diagnosed(monkeypatch, tmp_path, "no_such_module:checks")
    assert absent.exit_code == 1
    assert "cannot be loaded: No module named 'no_such_module'" in absent.stdout
