"""Waits for all samples of a request."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

SampleT = TypeVar("SampleT")


async def all_samples(samples: Iterable[Coroutine[Any, Any, SampleT]]) -> list[SampleT]:
    """Await all samples at once; the first failure cancels the rest and is raised by itself."""
    waiting = list(samples)
    if len(waiting) == 1:
        return [await waiting[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sample) for sample in waiting]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
