"""Notice that the process should stop: a signal, a second one for at once, or the end of its parent."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PARENT_POLL_SECONDS = 1.0


class StoppedEarlyError(Exception):
    """The process was asked to stop before it was serving."""


class StopRequests:
    """The first request asks for a drain, the second for an immediate stop.

    Attributes:
        drain: set by the first request.
        at_once: set by the second.
    """

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.at_once = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None

    def request(self, cause: str) -> None:
        """Ask for a drain, or for an immediate stop when one is under way."""
        structlog.get_logger(__name__).info("stop_requested", cause=cause, at_once=self.drain.is_set())
        (self.at_once if self.drain.is_set() else self.drain).set()
        if self._starting is not None:
            self._starting.cancel()

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a request interrupt the block: for the start of a service, which may take minutes to load a model.

        Raises:
            StoppedEarlyError: a request came before or inside the block.
        """
        if self.drain.is_set():
            raise StoppedEarlyError
        self._starting = task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if task is None or not self.drain.is_set() or task.uncancel() > 0:
                raise
        finally:
            self._starting = None
        if self.drain.is_set():
            raise StoppedEarlyError

    @contextmanager
    def listening(self, parent_pid: int | None = None) -> Iterator[None]:
        """Obey SIGTERM, SIGINT and the end of process ``parent_pid`` inside the block; in the main thread only."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.request, signal.Signals(number).name)
        watch = None if parent_pid is None else loop.create_task(self._watch(parent_pid), name="parent watch")
        try:
            yield
        finally:
            if watch is not None:
                watch.cancel()
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def _watch(self, pid: int) -> None:
        await wait_for_process_end(pid)
        self.request(f"parent process {pid} has ended")


async def wait_for_process_end(pid: int) -> None:
    """Wait until the process ``pid`` has ended, whoever's child it is.

    A pidfd rather than PR_SET_PDEATHSIG: that signal is sent when the *thread* that started us ends, not its process,
    is lost if the parent ends before we ask for it, and only works for the direct parent. Where the system has no
    pidfd, the process is polled once a second.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        await _poll_process_end(pid)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def _poll_process_end(pid: int) -> None:
    is_parent = os.getppid() == pid
    with suppress(ProcessLookupError):
        # A dead process that nobody has waited for still takes signals, but it is no longer our parent.
        while not is_parent or os.getppid() == pid:
            with suppress(PermissionError):
                os.kill(pid, 0)
            await asyncio.sleep(_PARENT_POLL_SECONDS)
