"""Which kernel is taken for gVisor's: only one that shows two signs of it."""

from pathlib import Path

import pytest

from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.gvisor.detection import read_kernel_log, require_gvisor

OLD = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n"
NEW = "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016\n"
LINUX = "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC\n"
LOG = "<6>[   0.000000] Starting gVisor...\n<6>[   0.354495] Digging up root...\n"


def proc(folder: Path, version: str, *files: str) -> Path:
    (folder / "version").write_text(version)
    for name in files:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("version", "files", "release"),
    [
        (OLD, (), "4.4.0"),
        (NEW, (), "4.19.0-gvisor"),
        ("Linux version 7.1.0\n", ("sentry-meminfo",), "7.1.0"),
        ("Linux version 7.1.0\n", ("gvisor",), "7.1.0"),
    ],
)
def test_gvisor_is_told_by_its_log_and_another_sign(
    tmp_path: Path, version: str, files: tuple[str, ...], release: str
) -> None:
    assert require_gvisor(proc(tmp_path, version, *files), lambda: LOG) == release


@pytest.mark.parametrize(
    ("version", "log"),
    [
        (LINUX, "<6>[    0.000000] Linux version 6.1.0\n"),
        (LINUX, ""),
        # A log into which somebody wrote, or a release that was made up, is one sign.
        (LINUX, LOG),
        ("Linux version 4.4.0 (root@host) #1 SMP\n", LOG),
        (NEW, ""),
        (NEW, "<6>[ 0.0] Linux version 6\n<6>[ 1.0] Starting gVisor...\n"),
        ("", ""),
    ],
)
def test_one_sign_is_none(tmp_path: Path, version: str, log: str) -> None:
    with pytest.raises(SandboxUnavailableError, match="runtimeClassName"):
        require_gvisor(proc(tmp_path, version), lambda: log)


def test_no_version_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailableError):
        require_gvisor(tmp_path, lambda: LOG)


def test_this_machines_kernel_is_not_gvisor() -> None:
    if "gvisor" in Path("/proc/version").read_text().lower() or read_kernel_log().startswith("<6>[   0.000000] Start"):
        pytest.skip("it is")
    with pytest.raises(SandboxUnavailableError):
        require_gvisor()
