"""What a machine has and lacks: each judgement by itself, and a fleet by its services' own health."""

import asyncio
import stat
from pathlib import Path

import pytest
from evalfleet.doctor import FindingState, missing_packages
from evalfleet.doctor.fleet_health import check_health, fleet_findings, library_version
from evalfleet.doctor.machine import (
    available_memory_bytes,
    client_findings,
    disk_finding,
    gpu_finding,
    memory_finding,
    python_finding,
)

from services.runtime.free_ports import free_port
from services.runtime.server import HostedService
from services.runtime.testing import run_in_process

GIB = 1024**3


def test_an_old_python_is_fatal() -> None:
    assert python_finding((3, 11)).state is FindingState.OK
    old = python_finding((3, 10))
    assert old.is_fatal
    assert "apt-get install python3.11" in old.remedy


@pytest.mark.parametrize(
    ("gib", "state", "is_fatal"),
    [(64, "ok", False), (2, "warn", False), (0.5, "missing", True), (None, "warn", False)],
)
def test_little_memory_is_told(gib: float | None, state: str, is_fatal: bool) -> None:
    found = memory_finding(None if gib is None else int(gib * GIB))
    assert (found.state, found.is_fatal) == (state, is_fatal)


def test_a_containers_limit_counts_where_it_is_less(tmp_path: Path) -> None:
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 99 kB\nMemAvailable: 8388608 kB\n")
    assert available_memory_bytes(proc, tmp_path) == 8 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert available_memory_bytes(proc, tmp_path) == 8 * GIB
    (tmp_path / "memory.max").write_text(f"{3 * GIB}\n")
    assert available_memory_bytes(proc, tmp_path) == 2 * GIB


def test_the_disk_of_a_folder_that_is_not_there_yet_is_judged(tmp_path: Path) -> None:
    assert str(tmp_path / "a" / "b") in disk_finding(tmp_path / "a" / "b").told


def test_gpus_are_those_that_the_driver_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_finding().state is FindingState.WARN
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert (gpu_finding().state, gpu_finding().told) == (FindingState.OK, "NVIDIA H100, 81559 MiB")
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert "shows no GPU" in gpu_finding().told


def distribution(folder: Path, name: str, *lines: str) -> None:
    made = folder / f"{name}-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines]) + "\n")


def test_extras_name_what_they_lack_through_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(
        tmp_path,
        "fleettest",
        "Requires-Dist: always-needed",
        'Requires-Dist: click>=8 ; extra == "cli"',
        'Requires-Dist: no_such-package[fast]<2 ; extra == "data"',
        "Requires-Dist: fleettest[cli,data] ; extra == 'all'",
        'Requires-Dist: other ; (sys_platform == "linux") and extra == "all"',
        *(f"Provides-Extra: {each}" for each in ("cli", "data", "all")),
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert missing_packages("fleettest") == {
        "cli": (),
        "data": ("no_such-package",),
        "all": ("no_such-package", "other"),
    }


def test_extras_of_this_library_are_told() -> None:
    found = {each.subject: each for each in client_findings()}
    assert found["evalfleet[cli]"].state is FindingState.OK
    assert not any(each.is_needed for each in found.values())


async def test_a_service_tells_whether_it_is_ready_and_its_version(tmp_path: Path) -> None:
    is_ready = asyncio.Event()

    async def check() -> bool:
        return is_ready.is_set()

    service = HostedService(full_name="test.v1.Slow", add_to_server=lambda server: None, readiness=check)
    async with run_in_process(service) as running:
        health = await asyncio.to_thread(check_health, "safety", running.address)
        assert (health.problem, health.version) == ("it is not ready", library_version())
        targets = {"safety": running.address, "scoring": f"127.0.0.1:{free_port('127.0.0.1')}"}
        found = {each.subject: each for each in await asyncio.to_thread(lambda: [*fleet_findings(targets, tmp_path)])}
    assert found["safety"].is_fatal
    assert "cannot be reached" in found["scoring"].told
    assert found["scoring"].is_fatal
    # Nobody says where it is: perhaps nobody needs it.
    assert found["evaluation"].state is FindingState.WARN


async def test_a_service_of_another_version_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.health.services_version", lambda: "9.9.9")
    service = HostedService(full_name="test.v1.New", add_to_server=lambda server: None)
    async with run_in_process(service) as running:
        targets = {"safety": running.address}
        found = await asyncio.to_thread(lambda: [*fleet_findings(targets, tmp_path)])
    (told,) = [each for each in found if each.subject == "safety"]
    assert (told.state, told.remedy) == (FindingState.WARN, "pip install 'evalfleet==9.9.9'")


def test_without_a_fleet_one_line_says_how_to_start_it(tmp_path: Path) -> None:
    (found,) = fleet_findings({}, tmp_path)
    assert (found.state, found.is_fatal) == (FindingState.WARN, False)
    assert found.remedy == f"evalfleet --state-dir {tmp_path} up"
    (tmp_path / "fleet.json").write_text("{")
    (damaged,) = fleet_findings({}, tmp_path)
    assert "is damaged" in damaged.told
