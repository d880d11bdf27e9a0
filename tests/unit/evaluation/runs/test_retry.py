"""Waiting for a service that is away or has enough to do."""

import asyncio

import pytest

from services.evaluation.runs.retry import wait_out
from services.runtime.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError


async def test_the_time_until_a_call_has_its_turn_uses_no_patience_up() -> None:
    attempts = 0

    async def call() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            # Its turn comes late, and then it is refused.
            await asyncio.sleep(0.05)
            raise ResourceExhaustedError("enough", retry_after_seconds=0.0)
        return "answer"

    assert await wait_out(call, patience_seconds=0.02) == "answer"
    assert attempts == 2


async def test_patience_ends() -> None:
    async def call() -> str:
        raise UnavailableError("away", retry_after_seconds=0.001)

    with pytest.raises(UnavailableError):
        await wait_out(call, patience_seconds=0.02)


async def test_what_will_not_pass_is_raised_at_once() -> None:
    attempts = 0

    async def call() -> str:
        nonlocal attempts
        attempts += 1
        raise InvalidArgumentError("no")

    with pytest.raises(InvalidArgumentError):
        await wait_out(call, patience_seconds=60)
    assert attempts == 1
