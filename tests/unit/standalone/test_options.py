import os
from pathlib import Path

import pytest

from services.standalone.errors import BadOptionError
from services.standalone.options import FleetOptions


def test_what_is_said_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("said", "env", "env2"):
        (tmp_path / name).mkdir()
    environ = {
        "EVALFLEET_DATA_DIR": f"{tmp_path}/env{os.pathsep}{tmp_path}/env2",
        "EVALFLEET_CHECKPOINT_ROOTS": f"{tmp_path}/env",
        "EVALFLEET_STATE_DIR": "state",
    }
    options = FleetOptions.collect(checkpoint_roots=(Path("said"),), environ=environ)
    assert options.checkpoint_roots == (tmp_path / "said",)
    assert options.data_dirs == (tmp_path / "env", tmp_path / "env2")
    assert options.state_dir == tmp_path / "state"


def test_checkpoints_come_from_the_current_folder_unless_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = FleetOptions.collect(environ={})
    assert options.checkpoint_roots == (tmp_path,)
    assert options.state_dir == Path.home() / ".evalfleet"
    assert (options.data_dirs, options.suite_dirs) == ((), ())


def test_a_missing_folder_names_its_option(tmp_path: Path) -> None:
    with pytest.raises(BadOptionError, match=r"--data-dir .*nowhere: there is no such folder"):
        FleetOptions.collect(data_dirs=(tmp_path / "nowhere",), environ={})


def test_the_bound_of_logs_comes_from_the_environment() -> None:
    assert FleetOptions.collect(environ={}).log_max_bytes == 64 * 2**20
    assert FleetOptions.collect(environ={"EVALFLEET_LOG_MAX_BYTES": "16384"}).log_max_bytes == 16384
    for wrong in ("1000", "-1", "64 MiB"):
        with pytest.raises(BadOptionError, match="EVALFLEET_LOG_MAX_BYTES"):
            FleetOptions.collect(environ={"EVALFLEET_LOG_MAX_BYTES": wrong})


def test_a_folder_that_cannot_be_handed_on_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"a{os.pathsep}b"
    folder.mkdir()
    with pytest.raises(BadOptionError, match="symbolic link"):
        FleetOptions.collect(suite_dirs=(folder,), environ={})
