"""Write a benchmark's result in the form that the README quotes: machine, versions and flat figures."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What a benchmark ran on; ``gpu`` is empty without one."""

    cpu: str
    cores: int
    memory_gib: float
    gpu: str


def this_machine(*, gpu: str = "") -> Machine:
    """Describe the machine: CPU model, usable cores, memory in GiB. Who uses a GPU names it."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu=_cpu_model() or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(memory_bytes / 2**30, 1),
        gpu=gpu,
    )


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of the named distributions, and Python's; a missing one reads ``absent``."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def write_result(
    path: Path,
    name: str,
    *,
    figures: Mapping[str, float],
    versions: Mapping[str, str],
    notes: Sequence[str] = (),
    machine: Machine | None = None,
) -> None:
    """Write one benchmark's result as JSON.

    Args:
        path: the file; its folder is made when missing.
        name: of the benchmark.
        figures: flat numbers; a unit or ``_ratio`` ends each key.
        versions: of everything compared, see ``installed_versions``.
        notes: how the figures were obtained, one sentence each.
        machine: this one by default.
    """
    result = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": asdict(machine or this_machine()),
        "versions": dict(versions),
        "figures": {key: float(f"{value:.5g}") for key, value in figures.items()},
        "notes": list(notes),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
