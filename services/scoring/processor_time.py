"""A bound on the processor time of code that is not ours and cannot be told to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from services.scoring.errors import ProcessorTimeError

_AGAIN_SECONDS: Final = 0.02


class _TimeIsUp(BaseException):
    """Raised in the middle of the code; no Exception, which the code might handle as an error of its own."""


@contextmanager
def processor_time(scorer: str, limit_seconds: float) -> Iterator[None]:
    """Stop what is done inside after ``limit_seconds`` of processor time of this process.

    A timer's signal interrupts Python code and the standard library's ``re``; it works in the main thread only, where
    the processes for heavy scorers judge. What computes inside of one operation, such as a power of huge numbers, is
    interrupted after it, or by the pool, which kills the process.

    Raises:
        ProcessorTimeError: the time is up.
        RuntimeError: this is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"{scorer} judges in the main thread of a process: its time could not be bounded here")
    is_open = True

    def stop(number: int, frame: FrameType | None) -> None:
        if is_open:
            raise _TimeIsUp

    before = signal.signal(signal.SIGPROF, stop)
    try:
        # Again and again: where the first exception is raised in a destructor or in a callback of the garbage
        # collector, Python drops it.
        signal.setitimer(signal.ITIMER_PROF, limit_seconds, _AGAIN_SECONDS)
        try:
            yield
        finally:
            is_open = False
    except _TimeIsUp:
        raise ProcessorTimeError(scorer, limit_seconds) from None
    finally:
        is_open = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
