"""Waiting for a service that is away or has enough to do."""

import asyncio
from types import SimpleNamespace

import pytest

from services.evaluation.runs import retry
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


@pytest.mark.parametrize(("asked", "at_least"), [(1.0, [1, 1, 1, 2, 4, 5, 5]), (60.0, [60] * 7), (0.0, [0] * 7)])
async def test_a_peer_is_given_the_time_it_asks_for_and_more_and_not_by_all_the_same(
    asked: float, at_least: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def call() -> str:
        if len(waits) == len(at_least):
            return "answer"
        raise UnavailableError("away", retry_after_seconds=asked)

    monkeypatch.setattr(retry, "asyncio", SimpleNamespace(sleep=sleep))
    assert await wait_out(call, patience_seconds=3600) == "answer"
    assert all(low <= wait <= 1.5 * low for low, wait in zip(at_least, waits, strict=True)), waits
    assert asked == 0 or len(set(waits)) == len(waits)
