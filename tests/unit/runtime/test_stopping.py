"""Stop requests: the first drains, the second stops, and the end of a parent counts as one."""

import asyncio
import os
import subprocess
import sys

import pytest

from services.runtime import stopping
from services.runtime.stopping import StoppedEarlyError, StopRequests, wait_for_process_end


def sleeper() -> "subprocess.Popen[bytes]":
    """A process that runs until its standard input closes."""
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


@pytest.mark.parametrize("pidfd", [True, False])
async def test_the_end_of_a_process_is_noticed(pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.setattr(stopping, "_PARENT_POLL_SECONDS", 0.01)
    with sleeper() as process:
        waiting = asyncio.create_task(wait_for_process_end(process.pid))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.to_thread(process.wait)
        await waiting


async def test_a_process_that_is_long_gone_counts_as_ended() -> None:
    with sleeper() as process:
        process.kill()
        process.wait()
    await wait_for_process_end(process.pid)


async def test_a_parent_that_ends_asks_for_a_drain() -> None:
    stop = StopRequests()
    with sleeper() as process:
        with stop.listening(parent_pid=process.pid):
            process.kill()
            await stop.drain.wait()
        process.wait()
    assert not stop.at_once.is_set()


async def test_the_second_request_is_for_at_once() -> None:
    stop = StopRequests()
    stop.request("SIGTERM")
    assert (stop.drain.is_set(), stop.at_once.is_set()) == (True, False)
    stop.request("SIGTERM")
    assert stop.at_once.is_set()


async def test_only_a_stop_request_turns_into_an_early_stop() -> None:
    stop = StopRequests()

    async def start() -> None:
        with stop.interrupting():
            await asyncio.Event().wait()

    cancelled = asyncio.create_task(start())
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled

    interrupted = asyncio.create_task(start())
    await asyncio.sleep(0)
    stop.request("SIGTERM")
    with pytest.raises(StoppedEarlyError):
        await interrupted

    with pytest.raises(StoppedEarlyError):
        await start()
