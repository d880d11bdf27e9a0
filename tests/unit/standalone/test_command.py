import socket
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evalfleet.cli.app import cli

from services.inference.platform_checks import gather_platform_facts
from services.standalone.command import up
from services.standalone.ports import take_ports
from services.standalone.state import locked


def invoke(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(up, ["--state-dir", str(tmp_path / "state"), *arguments])


def test_a_taken_port_ends_in_one_line(tmp_path: Path) -> None:
    block = take_ports(0)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", block.grpc("evaluation")))
        listening.listen()
        result = invoke(tmp_path, "--port-base", str(block.base))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: port {block.base}, for evaluation, cannot be used")
    assert result.stderr.count("\n") == 1


def test_a_held_state_folder_ends_in_one_line(tmp_path: Path) -> None:
    with locked(tmp_path / "state"):
        result = invoke(tmp_path, "--port-base", "0")
    assert result.exit_code == 1
    assert "already runs with the state folder" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_folder_ends_in_one_line(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--checkpoint-root", str(tmp_path / "nowhere"))
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: --checkpoint-root {tmp_path}/nowhere: there is no such folder\n",
    )


def test_the_command_line_offers_up_and_hands_its_state_folder_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Start a fleet on this machine" in CliRunner().invoke(cli, ["--help"]).output
    with locked(tmp_path):
        result = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "up", "--port-base", "0"])
    assert f"already runs with the state folder {tmp_path};" in result.stderr


def test_a_platform_without_triton_gets_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(gather_platform_facts(), system="Darwin", machine="arm64")
    monkeypatch.setattr("services.standalone.running.gather_platform_facts", lambda: facts)
    result = invoke(tmp_path, "--port-base", "0")
    assert result.exit_code == 1
    assert "Triton runs on x86-64 Linux, this is arm64 Darwin" in result.stderr
    assert "--inference local" in result.stderr
    assert not (tmp_path / "state").exists()
