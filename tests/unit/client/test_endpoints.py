import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evalfleet.endpoints import SERVICES, Endpoints, default_state_dir, find_endpoints, read_state_file
from evalfleet.errors import EndpointError


def write_state(folder: Path, *, process_id: int, targets: dict[str, str]) -> None:
    (folder / "fleet.json").write_text(json.dumps({"pid": process_id, "endpoints": targets}))


def ended_process_id() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_explicit_wins_over_environment_and_that_over_the_state_file(tmp_path: Path) -> None:
    write_state(tmp_path, process_id=os.getpid(), targets={each: f"file:{each}" for each in SERVICES})
    found = find_endpoints(
        {"safety": "said:1"},
        state_dir=tmp_path,
        environ={"EVALFLEET_SAFETY_TARGET": "env:1", "EVALFLEET_SCORING_TARGET": "env:2"},
    )
    assert found.target("safety") == "said:1"
    assert found.target("scoring") == "env:2"
    assert found.target("evaluation") == "file:evaluation"


def test_the_state_file_is_not_needed_when_everything_is_said(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text("damaged")
    found = find_endpoints(dict.fromkeys(SERVICES, "a:1"), state_dir=tmp_path, environ={})
    assert found == Endpoints(dict.fromkeys(SERVICES, "a:1"))


def test_an_unknown_service_name_is_refused() -> None:
    with pytest.raises(EndpointError, match="known: generation, safety"):
        find_endpoints({"saftey": "a:1"}, environ={})


def test_a_missing_address_says_how_to_give_it(tmp_path: Path) -> None:
    found = find_endpoints(state_dir=tmp_path, environ={})
    with pytest.raises(EndpointError, match=r"no fleet has written .*`evalfleet up`, or set EVALFLEET_SAFETY_TARGET"):
        found.target("safety")


def test_a_fleet_that_has_ended_is_not_used(tmp_path: Path) -> None:
    write_state(tmp_path, process_id=ended_process_id(), targets={"safety": "a:1"})
    with pytest.raises(EndpointError, match="runs no more"):
        find_endpoints(state_dir=tmp_path, environ={}).target("safety")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "endpoints": {}}', '{"pid": 1}'])
def test_a_damaged_state_file_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fleet.json"
    path.write_text(text)
    with pytest.raises(EndpointError, match="is damaged"):
        read_state_file(path)


def test_the_state_dir_comes_from_the_environment() -> None:
    assert default_state_dir({"EVALFLEET_STATE_DIR": "/state"}) == Path("/state")
    assert default_state_dir({}) == Path.home() / ".evalfleet"
