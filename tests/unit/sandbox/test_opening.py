"""What sandboxes need is made once, and a refusal is remembered for a while."""

import asyncio

import pytest

from services.sandbox import opening
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.sandbox.opening import Opening


class Maker:
    """Makes a number each time, or fails."""

    def __init__(self) -> None:
        self.made = 0
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def make(self) -> int:
        self.made += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return self.made


async def test_it_is_made_once_for_all_and_not_dropped_with_who_leaves() -> None:
    maker = Maker()
    maker.go_on.clear()
    opened = Opening(maker.make)
    first = asyncio.ensure_future(opened.get())
    second = asyncio.ensure_future(opened.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    maker.go_on.set()
    assert await second == 1
    assert await opened.get() == 1
    assert first.cancelled()


async def test_a_refusal_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    maker.error = OSError("no space left")
    opened = Opening(maker.make)
    for _ in range(3):
        with pytest.raises(SandboxUnavailableError, match="no space left"):
            await opened.get()
    assert maker.made == 1
    monkeypatch.setattr(opening, "_RETRY_SECONDS", 0.0)
    maker.error = None
    assert await opened.get() == 2


async def test_a_refusal_that_many_are_told_keeps_none_of_them_alive() -> None:
    maker = Maker()
    maker.error = SandboxUnavailableError("no namespaces")
    opened = Opening(maker.make)
    depths = []
    for _ in range(4):
        with pytest.raises(SandboxUnavailableError, match="no namespaces") as caught:
            await opened.get()
        depths.append(len(caught.traceback))
    assert len(set(depths[1:])) == 1


async def test_a_machine_too_busy_to_tell_is_no_refusal() -> None:
    maker = Maker()
    maker.error = SandboxBusyError("this machine is too busy", retry_after_seconds=2.0)
    opened = Opening(maker.make)
    with pytest.raises(SandboxBusyError):
        await opened.get()
    maker.error = None
    assert await opened.get() == 2


async def test_what_was_taken_is_not_made_again() -> None:
    maker = Maker()
    opened = Opening(maker.make)
    assert await opened.get() == 1
    assert await opened.take() == 1
    assert await opened.take() is None
    with pytest.raises(SandboxUnavailableError, match="closed"):
        await opened.get()


async def test_what_is_being_made_is_waited_for_to_be_closed() -> None:
    maker = Maker()
    maker.go_on.clear()
    opened = Opening(maker.make)
    asked = asyncio.ensure_future(opened.get())
    await asyncio.sleep(0)
    taking = asyncio.ensure_future(opened.take())
    await asyncio.sleep(0)
    maker.go_on.set()
    assert await taking == 1
    assert await asked == 1
