"""Control groups in both versions of the kernel's interface, on folders that look like them."""

from pathlib import Path

import pytest

from services.sandbox.cgroups import ControlGroup, ControlGroups, LimitHits
from services.sandbox.contract import SandboxLimits

LIMITS = SandboxLimits(memory_bytes=1 << 20, processes=5)
FILES = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "pids": ("cgroup.procs", "pids.max"),
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"),
    "cpuacct": ("cpuacct.usage",),
}


def version_1(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new folders below the mount have the files that the kernel gives them."""
    make = Path.mkdir

    def mkdir(folder: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        make(folder, mode, parents, exist_ok)
        if folder.is_relative_to(mount):
            for name in FILES[folder.relative_to(mount).parts[0]]:
                (folder / name).touch()

    for controller in FILES:
        (mount / controller).mkdir(parents=True)
    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_version_1_caps_each_in_its_hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(tmp_path, monkeypatch)
    groups = ControlGroups("boxes", tmp_path, "8:pids:/\n4:memory:/gone\n2:cpuacct:/\n1:cpu:/\n0::/\n")
    assert groups.controllers == ("memory", "pids", "cpu")
    group = groups.make("0", LIMITS)
    assert group.folders == tuple(tmp_path / controller / "boxes/0" for controller in FILES)
    assert (tmp_path / "memory/boxes/0/memory.limit_in_bytes").read_text() == str(1 << 20)
    assert (tmp_path / "pids/boxes/0/pids.max").read_text() == "7"
    period, quota = ((tmp_path / "cpu/boxes/0" / name).read_text() for name in FILES["cpu"][:2])
    assert period == quota


def test_a_sandbox_counts_for_little_until_it_has_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(tmp_path, monkeypatch)
    group = ControlGroups("boxes", tmp_path, "8:pids:/\n4:memory:/gone\n1:cpu:/\n0::/\n").make("0", LIMITS)
    shares = tmp_path / "cpu/boxes/0/cpu.shares"
    assert shares.read_text() == "64"
    group.prefer()
    assert shares.read_text() == "1024"


def test_the_time_of_all_that_ran_is_read_in_both_versions(tmp_path: Path) -> None:
    group = ControlGroup(times=tmp_path)
    assert (ControlGroup().ran_seconds(), group.ran_seconds()) == (None, None)
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert group.ran_seconds() == 2.5
    (tmp_path / "cpu.stat").unlink()
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")
    assert group.ran_seconds() == 1.5
    # A kernel that has the file and counts nothing.
    (tmp_path / "cpuacct.usage").write_text("0\n")
    assert group.ran_seconds() is None


def test_without_any_there_is_nothing_to_join(tmp_path: Path) -> None:
    groups = ControlGroups("boxes", tmp_path, "8:pids:/\n0::/user\n")
    assert groups.controllers == ()
    group = groups.make("0", LIMITS)
    assert group.folders == ()
    assert group.hits() == LimitHits()
    groups.close()


@pytest.mark.parametrize("file", ["memory.events", "memory.oom_control"])
def test_hits_are_read_in_both_versions(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("low 0\noom 9\noom_kill 3\n")
    (tmp_path / "pids.events").write_text("max 12\n")
    group = ControlGroup(memory=tmp_path, processes=tmp_path)
    assert group.hits() == LimitHits(memory=3, processes=12)
    assert group.folders == (tmp_path,)
