import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from evalfleet.endpoints import SERVICES, find_endpoints

from services.standalone.errors import BadOptionError, FleetAlreadyRunningError
from services.standalone.options import FleetOptions
from services.standalone.plan import FleetPlan, key_file, plan_fleet
from services.standalone.ports import PortBlock
from services.standalone.state import StateFile, locked, prepare, wait_for_predecessor
from tests.patience import LONGEST_WAIT_SECONDS


@pytest.fixture
def options(tmp_path: Path) -> FleetOptions:
    return FleetOptions.collect(state_dir=tmp_path / "state", checkpoint_roots=(tmp_path,), environ={})


@pytest.fixture
def plan(options: FleetOptions) -> FleetPlan:
    return plan_fleet(options, PortBlock(8100), environ={})


def test_one_fleet_at_a_time_holds_a_state_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    with locked(folder):
        with pytest.raises(FleetAlreadyRunningError) as caught, locked(folder):
            pass
        assert f"(process {os.getpid()}) already runs with the state folder {folder}" in str(caught.value)
        assert "--state-dir" in str(caught.value)
    with locked(folder):
        pass


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadOptionError, match=r"--state-dir .*file/state cannot be used"),
        locked(tmp_path / "file/state"),
    ):
        pass


def test_clients_find_the_fleet_through_its_state_file(plan: FleetPlan, options: FleetOptions) -> None:
    options.state_dir.mkdir()
    file = StateFile(plan, also=options.state_dir / "copy.json")
    file.write({"evaluation": 42})
    found = find_endpoints(state_dir=options.state_dir, environ={})
    assert [found.target(each) for each in SERVICES] == [plan.part(each).target for each in SERVICES]
    written = json.loads((options.state_dir / "copy.json").read_text())
    assert written["processes"] == {"evaluation": 42}
    assert written["endpoints"]["triton"] == "127.0.0.1:8110"
    assert sorted(each.name for each in options.state_dir.iterdir()) == ["copy.json", "fleet.json"]
    file.remove()
    file.remove()
    assert list(options.state_dir.iterdir()) == []


def test_a_ready_file_in_a_missing_folder_is_named(plan: FleetPlan, options: FleetOptions, tmp_path: Path) -> None:
    options.state_dir.mkdir()
    with pytest.raises(BadOptionError, match=r"nowhere/ready.json cannot be written"):
        StateFile(plan, also=tmp_path / "nowhere" / "ready.json").write({})


def test_logs_of_the_fleet_before_are_kept_and_the_key_is_new_and_private(
    plan: FleetPlan, options: FleetOptions
) -> None:
    prepare(plan, key_file(options))
    first = key_file(options).read_text()
    plan.part("scoring").log_path.write_text("old")
    prepare(plan, key_file(options))
    assert plan.part("scoring").log_path.with_suffix(".log.1").read_text() == "old"
    assert not plan.part("scoring").log_path.exists()
    assert key_file(options).read_text() != first
    assert stat.S_IMODE(key_file(options).stat().st_mode) == 0o600
    assert all(each.folder.is_dir() for each in plan.parts)


def test_what_a_killed_fleet_left_running_is_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as left:
        (tmp_path / "fleet.json").write_text(json.dumps({"processes": {"evaluation": left.pid}}))
        noticed = threading.Event()
        waiting = threading.Thread(target=wait_for_predecessor, args=(tmp_path,), kwargs={"on_wait": noticed.set})
        waiting.start()
        assert noticed.wait(LONGEST_WAIT_SECONDS)
        assert waiting.is_alive()
        assert (tmp_path / "fleet.json").exists()
        left.kill()
        left.wait()
        waiting.join(LONGEST_WAIT_SECONDS)
        assert not waiting.is_alive()
    assert not (tmp_path / "fleet.json").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"processes": {"evaluation": "x"}}', '{"processes": 3}'])
def test_a_damaged_state_file_is_swept_away(tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.json").write_text(text)
    wait_for_predecessor(tmp_path, on_wait=pytest.fail)
    assert not (tmp_path / "fleet.json").exists()


def test_the_wait_for_a_killed_fleet_is_bounded(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as left:
        (tmp_path / "fleet.json").write_text(json.dumps({"processes": {"evaluation": left.pid}}))
        wait_for_predecessor(tmp_path, on_wait=lambda: None, timeout_seconds=0.2)
        assert left.poll() is None
        left.kill()
