"""The machine itself, as far as anybody can tell without the services: Python, memory, disk, GPUs, extras."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from evalfleet.doctor.extras import missing_packages
from evalfleet.doctor.findings import Finding, FindingState

OLDEST_PYTHON = (3, 11)
_GIB = 1024**3
_LITTLE_MEMORY_BYTES, _LEAST_MEMORY_BYTES = 4 * _GIB, _GIB
_LITTLE_DISK_BYTES, _LEAST_DISK_BYTES = 10 * _GIB, _GIB
_ASK_SECONDS = 10.0


def machine_findings(state_dir: Path) -> Iterator[Finding]:
    """Yield what the library itself can tell.

    Args:
        state_dir: where a fleet here keeps its files.
    """
    yield python_finding(sys.version_info[:2])
    yield memory_finding(available_memory_bytes())
    yield disk_finding(state_dir)
    yield gpu_finding()
    yield from client_findings()


def python_finding(version: tuple[int, ...]) -> Finding:
    """Judge a version of Python for the library; the services have a check of their own."""
    told = f"Python {'.'.join(map(str, version))} on {platform.machine()} {platform.system()}"
    if version >= OLDEST_PYTHON:
        return Finding("machine", "python", FindingState.OK, told, is_needed=True)
    remedy = "apt-get install python3.11 python3.11-venv"
    return Finding("machine", "python", FindingState.MISSING, f"{told}; 3.11 is the oldest", remedy, is_needed=True)


def memory_finding(available_bytes: int | None) -> Finding:
    """Judge the memory that is left, in bytes; ``None`` where nobody tells."""
    if available_bytes is None:
        return Finding("machine", "memory", FindingState.WARN, "this system does not say how much is free")
    told = f"{available_bytes / _GIB:.1f} GiB are free"
    if available_bytes < _LEAST_MEMORY_BYTES:
        return Finding("machine", "memory", FindingState.MISSING, f"{told}; a fleet needs 1 GiB", is_needed=True)
    if available_bytes < _LITTLE_MEMORY_BYTES:
        return Finding("machine", "memory", FindingState.WARN, f"{told}: for small models only")
    return Finding("machine", "memory", FindingState.OK, told, is_needed=True)


def disk_finding(state_dir: Path) -> Finding:
    """Judge the disk on which a fleet keeps its databases, caches and logs."""
    folder = next(each for each in (state_dir, *state_dir.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(folder).free
    told = f"{free / _GIB:,.1f} GiB are free for {state_dir}"
    remedy = "evalfleet --state-dir DIR up"
    if free < _LEAST_DISK_BYTES:
        return Finding("machine", "disk", FindingState.MISSING, told, remedy, is_needed=True)
    if free < _LITTLE_DISK_BYTES:
        return Finding("machine", "disk", FindingState.WARN, f"{told}: little for caches and ledgers", remedy)
    return Finding("machine", "disk", FindingState.OK, told, is_needed=True)


def gpu_finding() -> Finding:
    """Say which GPUs the driver shows."""
    tool = shutil.which("nvidia-smi")
    names: list[str] = []
    if tool:
        with suppress(OSError, subprocess.TimeoutExpired):
            command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
            asked = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
            names = (
                [line.strip() for line in asked.stdout.splitlines() if line.strip()] if asked.returncode == 0 else []
            )
    if names:
        return Finding("machine", "gpu", FindingState.OK, "; ".join(names))
    told = "nvidia-smi shows no GPU" if tool else "none that a driver shows"
    return Finding("machine", "gpu", FindingState.WARN, f"{told}: models run on the processor, which is slow")


def client_findings() -> Iterator[Finding]:
    """Say which extras of this library are there."""
    for extra, missing in sorted(missing_packages("evalfleet").items()):
        if missing:
            told = f"not installed: {', '.join(missing)}"
            yield Finding("client", f"evalfleet[{extra}]", FindingState.WARN, told, f"pip install 'evalfleet[{extra}]'")
        else:
            yield Finding("client", f"evalfleet[{extra}]", FindingState.OK, "installed")


def available_memory_bytes(proc: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that processes here may still take, by the kernel and by the container's limit.

    Args:
        proc: the kernel's account.
        group: where the control group of this process is mounted (version 2 of the kernel's interface).
    """
    found: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        line = next(each for each in proc.read_text().splitlines() if each.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    if not found:
        with suppress(OSError, ValueError, AttributeError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(found)) if found else None
