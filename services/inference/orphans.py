"""Ends model processes that outlived their Triton.

A stub notices the death of its Triton, by Triton's own check and by ours (``end-with-triton``), unless it waits just
then for a lock in the memory they shared, which it does with Python's interpreter lock held: then it waits for good,
with all of its models' memory. The launcher ends such stubs together with Triton; only one that was killed cannot.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import structlog


def end_orphans(folder: Path) -> None:
    """Kill every process that runs a program below a folder; nothing else may use the folder."""
    folder = folder.resolve()
    for pid in _pids():
        with suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                # The handle comes first: a process id could be another's by the time of the signal.
                if _program(pid).is_relative_to(folder):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    structlog.get_logger(__name__).warning("orphan_ended", pid=pid)
            finally:
                os.close(handle)


def _pids() -> Iterator[int]:
    return (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())


def _program(pid: int) -> Path:
    return Path(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
