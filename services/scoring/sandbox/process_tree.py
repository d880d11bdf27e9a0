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
            memory += _own_bytes(_PROC / str(each))
        except OSError:
            continue
        processes += 1
    return Usage(memory, processes)


def _own_bytes(process: Path) -> int:
    """Return what a process holds beside files on a disk; what it shares with its children counts for each of them."""
    own = 0
    for line in (process / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssShmem"):
            own += int(value.split()[0]) * 1024
    if not own:
        # A kernel that does not tell them apart: all of it, rather than none.
        own = int((process / "statm").read_text().split()[1]) * _PAGE_BYTES
    return own


def _files_bytes(process: int) -> int:
    """Return what files in /tmp take, and a kilobyte for each file: the kernel does not count those for a tmpfs."""
    try:
        status = os.statvfs(_PROC / str(process) / "root/tmp")
    except OSError:
        return 0
    return (status.f_blocks - status.f_bfree) * status.f_frsize + (status.f_files - status.f_ffree) * 1024
