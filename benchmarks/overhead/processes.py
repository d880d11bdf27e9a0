"""What processes have cost so far, as the kernel counts it."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(process_id: int) -> float:
    """Return the processor time, user and system, of a process and of all that it started, those that ended included.

    Raises:
        OSError: there is no such process.
    """
    return sum(_own_cpu_seconds(each) for each in _tree(process_id))


def peak_mib(process_id: int) -> float:
    """Return the sum of the highest resident sizes that a process and those that it started ever had.

    They need not have been that large at the same time, so this is at least what they took together.
    """
    return sum(_high_water_kib(each) for each in _tree(process_id)) / 1024


def use_cores(count: int) -> int:
    """Keep this process, and all that it starts from now on, on ``count`` cores; return on how many it is."""
    allowed = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, allowed)
    return len(allowed)


def _tree(process_id: int) -> Iterator[int]:
    waiting = [process_id]
    while waiting:
        current = waiting.pop()
        yield current
        try:
            for thread in Path(f"/proc/{current}/task").iterdir():
                waiting += [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
        except OSError:
            continue


def _own_cpu_seconds(process_id: int) -> float:
    # The name, which may hold anything, stands in parentheses before the numbers.
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    user, system, ended_user, ended_system = (int(each) for each in fields[11:15])
    return (user + system + ended_user + ended_system) / _TICKS


def _high_water_kib(process_id: int) -> int:
    try:
        lines = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
