"""The sandboxes that wait for programs: which are given out, and what happens when none can be started."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.warm_pool import WarmPool


class FakeProcess:
    """A sandbox that only knows whether it runs."""

    def __init__(self) -> None:
        self.is_running = True
        self.has_ended = False

    def use_core(self, core: int) -> None:
        """Do nothing."""

    def kill(self) -> None:
        self.is_running = False

    async def end(self) -> None:
        self.is_running, self.has_ended = False, True


class Starter:
    """Starts fakes; fails while it is told to."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.fails = False

    async def start(self) -> Any:
        if self.fails:
            raise SandboxUnavailableError("no memory")
        self.started.append(FakeProcess())
        return self.started[-1]


def pool(starter: Starter, ready: int = 3) -> WarmPool:
    start: Callable[[], Awaitable[Any]] = starter.start
    return WarmPool(start, ready, running=2)


async def test_those_that_were_killed_while_they_waited_are_not_given_out() -> None:
    starter = Starter()
    made = pool(starter)
    async with made.sandbox():
        pass
    await asyncio.sleep(0)
    waiting = [each for each in starter.started if each.is_running]
    assert len(waiting) == 3
    for each in waiting:
        each.is_running = False
    async with made.sandbox() as process:
        assert process.is_running
    assert all(each.has_ended for each in waiting)


async def test_sandboxes_that_all_end_at_once_are_none() -> None:
    starter = Starter()
    start = starter.start

    async def dead() -> Any:
        process = await start()
        process.is_running = False
        return process

    with pytest.raises(SandboxUnavailableError):
        async with WarmPool(dead, 2, running=1).sandbox():
            pass


async def test_a_failure_while_nobody_waited_fails_no_later_program() -> None:
    starter = Starter()
    made = pool(starter)
    async with made.sandbox():
        starter.fails = True
    for each in starter.started:
        each.is_running = False
    with pytest.raises(SandboxUnavailableError):
        async with made.sandbox():
            pass
    await asyncio.sleep(0)
    starter.fails = False
    async with made.sandbox() as process:
        assert process.is_running


async def test_a_closed_pool_starts_nothing() -> None:
    starter = Starter()
    made = pool(starter)
    await made.close()
    with pytest.raises(SandboxUnavailableError):
        async with made.sandbox():
            pass
    assert not starter.started
