"""A program's time limit on a machine that others use, too: what they kept it from running does not count."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from services.sandbox.errors import SandboxBusyError
from services.sandbox.process_tree import ProcessorTime

_NOTHING: Final = 0.05
"""Of its time: a program that was kept waiting for less had all of it."""
LONGEST_TIMES: Final = 3.0
"""Of its time limit: so long may a program be in hand."""
_RETRY_SECONDS: Final = 2.0


async def wait_own_time(
    tasks: Collection[asyncio.Future[Any]], seconds: float, processor_time: Callable[[], ProcessorTime]
) -> None:
    """Return when a task is done, or when the program has had its time: to run, to sleep, and to wait for its own.

    Args:
        tasks: one of which is done when the program has ended.
        seconds: the program's time.
        processor_time: says for how long its processes ran so far, and waited to run.

    Raises:
        SandboxBusyError: after three times as long it had not had its time: that says nothing of the program.
    """
    began, before = time.monotonic(), processor_time()
    left = seconds
    while True:
        done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return
        passed, now = time.monotonic() - began, processor_time()
        # No more than nobody of it ran: processes of a program that wait for each other have the processor.
        kept_waiting = max(0.0, min(now.waited_since(before), passed - (now.ran - before.ran)))
        left = seconds - (passed - kept_waiting)
        if left <= _NOTHING * seconds:
            return
        if passed + left > LONGEST_TIMES * seconds:
            raise SandboxBusyError(
                f"a program waited for a processor for {kept_waiting:.1f} of {passed:.1f} s: this machine is too busy "
                "to run it; try again",
                retry_after_seconds=_RETRY_SECONDS,
            )
