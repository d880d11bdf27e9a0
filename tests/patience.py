"""How tests wait on a machine that may be slow and busy: for events, and for longer than any stall."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

LONGEST_WAIT_SECONDS: Final = 60.0
"""Bound of a wait for what comes in a moment: it only keeps a broken test from hanging."""

GROWING_SECONDS: Final = (0.2, 2.0, 20.0)
"""Time limits, tried in turn, for work that must have begun when its time is up: a busy machine needs a longer one."""


async def has_begun(work: "asyncio.Future[Any]", begun: asyncio.Event) -> bool:
    """Wait until work has begun, or has ended without; return which."""
    beginning = asyncio.ensure_future(begun.wait())
    await asyncio.wait((work, beginning), return_when=asyncio.FIRST_COMPLETED)
    beginning.cancel()
    return begun.is_set()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a state that tells nobody when it changes, such as a gauge's."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not is_so():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait, without a loop, for what comes from other processes, which tell nobody when it is there."""
    give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.1)
