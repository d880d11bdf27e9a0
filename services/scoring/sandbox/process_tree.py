"""What the processes of a sandbox use, as the kernel's /proc says it, where no control group counts it."""

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of their own that processes hold, in bytes with what lies in /tmp, and how many processes there are."""

    memory_bytes: int
    processes: int


def children_of(process: int) -> list[int]:
    """Return the children of a process; none if it has ended."""
    found: list[int] = []
    try:
        for thread in (_PROC / str(process) / "task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except OSError:
        pass
    return found


def usage_below(process: int) -> Usage:
    """Add up what a process and all its descendants use."""
    memory, processes, waiting = _files_bytes(process), 0, [process]
    while waiting:
        each = waiting.pop()
        waiting += children_of(each)
        try:
            _, resident, shared, *_ = (_PROC / str(each) / "statm").read_text().split()
        except OSError:
            continue
        memory += (int(resident) - int(shared)) * _PAGE_BYTES
        processes += 1
    return Usage(memory, processes)


def _files_bytes(process: int) -> int:
    """Return what files in /tmp take, and a kilobyte for each file: the kernel does not count those for a tmpfs."""
    try:
        status = os.statvfs(_PROC / str(process) / "root/tmp")
    except OSError:
        return 0
    return (status.f_blocks - status.f_bfree) * status.f_frsize + (status.f_files - status.f_ffree) * 1024
