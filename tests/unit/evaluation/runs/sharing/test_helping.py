"""A helper can be stopped, whatever happens to the run that it helps with in that moment."""

import asyncio

import pytest

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.helping import _first_error_of


async def test_a_cancellation_gets_through_beside_an_error() -> None:
    is_over = asyncio.Event()

    async def work() -> None:
        await is_over.wait()
        raise LeaseLostError("the run has ended")

    async def others() -> None:
        await asyncio.Event().wait()

    helping = asyncio.ensure_future(_first_error_of(work(), others()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Both in one turn of the loop.
    is_over.set()
    helping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await helping


async def test_the_first_error_ends_the_other_work() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        raise LeaseLostError("the run has ended")

    with pytest.raises(LeaseLostError, match="has ended"):
        await _first_error_of(other(), fail())
    assert ended.is_set()
