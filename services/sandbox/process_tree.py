"""What the processes of a sandbox use and wait for, as the kernel's /proc says it."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTED = _PROC / "thread-self/children"
# A program whose threads come and go without end gets no more looks than these.
_LOOKS = 10
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of their own that processes hold, in bytes with what lies in /tmp, and how many processes there are."""

    memory_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """How long processes ran and waited for a core so far; seconds.

    Attributes:
        ran: all of them together.
        waits: how long each of their threads was ready to run and did not, by its number.
    """

    ran: float
    waits: Mapping[int, float]

    def waited_since(self, before: "ProcessorTime") -> float:
        """Return how long a thread waited since then: the one that waited longest, which may have begun since."""
        return max((wait - before.waits.get(thread, 0.0) for thread, wait in self.waits.items()), default=0.0)


def children_of(process: int) -> list[int]:
    """Return the children of a process; none if it has ended."""
    return _ParentsSeen().children_of(process)


def descendants_of(process: int) -> list[int]:
    """Return a process and all that come from it."""
    seen, found, waiting = _ParentsSeen(), [], [process]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += seen.children_of(each)
    return found


@dataclass(frozen=True, slots=True)
class Idle:
    """What counts for no program: it was there before.

    Attributes:
        shared_bytes: what processes share with the first of them, where the kernel does not tell that apart.
        files_bytes: what the file system of /tmp held.
        processes: how many there were.
    """

    shared_bytes: int = 0
    files_bytes: int = 0
    processes: int = 0

    @classmethod
    def of(cls, process: int) -> "Idle":
        """Return what is there while a process, the first one, has no program yet."""
        try:
            folder = _PROC / str(process)
            shared_bytes = 0 if _told_apart(folder) else _own_bytes(folder)
            return cls(shared_bytes, _files_bytes(process), len(descendants_of(process)))
        except OSError:
            return cls()


_NOTHING_IDLE = Idle()


def usage_below(process: int, idle: Idle = _NOTHING_IDLE) -> Usage:
    """Add up what a process and all its descendants use.

    Args:
        process: the first of them.
        idle: what is not counted.
    """
    memory, processes = max(0, _files_bytes(process) - idle.files_bytes), 0
    for each in descendants_of(process):
        try:
            memory += max(0, _own_bytes(_PROC / str(each)) - (idle.shared_bytes if processes else 0))
        except OSError:
            continue
        processes += 1
    return Usage(memory, processes)


def processor_time_below(process: int) -> ProcessorTime:
    """Add up for how long a process and all its descendants ran.

    Those that have ended are included if their parent waited for them: a program can keep their time from being told.
    """
    ran, waits = 0.0, dict[int, float]()
    for each in descendants_of(process):
        with contextlib.suppress(OSError):
            ran += _ran_seconds(_PROC / str(each))
            waits |= _waits_of(_PROC / str(each))
    return ProcessorTime(ran, waits)


class _ParentsSeen:
    """Finds children; where the kernel lists none of a process, by looking once at the parents of all."""

    def __init__(self) -> None:
        self._by_parent: dict[int, list[int]] | None = None

    def children_of(self, process: int) -> list[int]:
        if not _LISTED.exists():
            return self._read().get(process, [])
        found: dict[int, None] = {}
        for _ in range(_LOOKS):
            children, is_whole = _listed_children(_PROC / str(process) / "task")
            found |= dict.fromkeys(children)
            if is_whole:
                break
        return list(found)

    def _read(self) -> dict[int, list[int]]:
        if self._by_parent is None:
            self._by_parent = {}
            for each in filter(str.isdigit, os.listdir(_PROC)):
                try:
                    parent = int((_PROC / each / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                self._by_parent.setdefault(parent, []).append(int(each))
        return self._by_parent


def _listed_children(threads: Path) -> tuple[list[int], bool]:
    """Return the children that the threads of a process list, and whether no thread ended meanwhile.

    The children of a thread that ends are another's then, which may have been read already.
    """
    found: list[int] = []
    is_whole = True
    try:
        for thread in threads.iterdir():
            try:
                listed = (thread / "children").read_text().split()
            except OSError:
                is_whole = False
                continue
            found += map(int, listed)
            # One that ends while it is read has none, without an error.
            is_whole &= bool(listed) or thread.exists()
    except OSError:
        # The process has ended.
        return found, True
    return found, is_whole


def _ran_seconds(process: Path) -> float:
    """Return what a process ran, and what its children did that have ended."""
    # Behind the command, which is in brackets and may hold anything, these are the fields 14 to 17 of proc(5).
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_A_SECOND


def _waits_of(process: Path) -> dict[int, float]:
    """Return for how many seconds each of its threads was ready to run and did not."""
    waits = {}
    for thread in (process / "task").iterdir():
        # One that has just ended says nothing about the others.
        with contextlib.suppress(OSError):
            waits[int(thread.name)] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return waits


def _own_bytes(process: Path) -> int:
    """Return what a process holds beside files on a disk; what it shares with its children counts for each of them."""
    # A kernel that does not tell them apart: all of it, rather than none.
    return _told_apart(process) or int((process / "statm").read_text().split()[1]) * _PAGE_BYTES


def _told_apart(process: Path) -> int:
    own = 0
    for line in (process / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssShmem"):
            own += int(value.split()[0]) * 1024
    return own


def _files_bytes(process: int) -> int:
    """Return what files in /tmp take, and a kilobyte for each file: the kernel does not count those for a tmpfs."""
    try:
        status = os.statvfs(_PROC / str(process) / "root/tmp")
    except OSError:
        return 0
    return (status.f_blocks - status.f_bfree) * status.f_frsize + (status.f_files - status.f_ffree) * 1024
