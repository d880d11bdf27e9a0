"""Resident memory of processes, and a leak of known size to try the measurement on."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

_LEAKER = """
import sys
kept, size, count = [], int(sys.argv[1]) * 1024, int(sys.argv[2])
print("before", flush=True)
sys.stdin.readline()
kept = [bytes([index % 256]) * size for index in range(count)]
print("after", flush=True)
sys.stdin.readline()
"""


def tree_resident_mib(process_id: int) -> float:
    """Return the resident memory of a process and all its descendants; shared pages count in part (PSS)."""
    total_kib, waiting = 0, [process_id]
    while waiting:
        current = waiting.pop()
        try:
            rollup = Path(f"/proc/{current}/smaps_rollup").read_text(encoding="ascii")
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
        except OSError:
            continue
        total_kib += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total_kib / 1024


def tree_whole_resident_mib(process_id: int) -> float:
    """Return the resident memory of a process and all its descendants, with shared pages counted by each (RSS).

    Unlike PSS it does not depend on which other processes happen to use the same libraries.
    """
    return sum(whole_resident_mib(process_id).values())


def whole_resident_mib(process_id: int) -> dict[str, float]:
    """Return the resident memory (RSS) of a process and of each descendant, by program name and process id."""
    found: dict[str, float] = {}
    waiting = [process_id]
    while waiting:
        current = waiting.pop()
        try:
            pages = int(Path(f"/proc/{current}/statm").read_text(encoding="ascii").split()[1])
            name = Path(f"/proc/{current}/comm").read_text(encoding="utf-8").strip()
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
        except OSError:
            continue
        found[f"{name}/{current}"] = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return found


class PlantedLeak(AbstractContextManager["PlantedLeak"]):
    """A process that keeps some memory for every stream.

    Args:
        kib_a_stream: how much.
        streams: how many.

    Attributes:
        before_mib: its memory before.
        after_mib: its memory afterwards.
    """

    def __init__(self, *, kib_a_stream: int, streams: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LEAKER, str(kib_a_stream), str(streams)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.before_mib = tree_resident_mib(self._process.pid)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        self.after_mib = tree_resident_mib(self._process.pid)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate("\n", timeout=30)


def tree_cpu_seconds(process_id: int) -> float:
    """Return the CPU time of a process and all its descendants, ended and reaped children included."""
    ticks, waiting = 0, [process_id]
    while waiting:
        current = waiting.pop()
        try:
            # The name in parentheses may hold spaces; user, system and both of the reaped children follow it.
            fields = Path(f"/proc/{current}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
        except OSError:
            continue
        ticks += sum(int(each) for each in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")
