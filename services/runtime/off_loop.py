"""Keeps the event loop free of work that takes as long as a text is."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

ResultT = TypeVar("ResultT")

LONG_CHARACTERS: Final = 16_384
"""Writing so much as JSON and hashing it takes 0.07 ms, or 0.3 ms if it is no ASCII; a thread costs 0.03 ms."""


async def off_loop(work: Callable[[], ResultT], *, characters: int) -> ResultT:
    """Return the result of work that goes through so many characters: in a thread if they are many, or else at once."""
    if characters < LONG_CHARACTERS:
        return work()
    return await asyncio.to_thread(work)
