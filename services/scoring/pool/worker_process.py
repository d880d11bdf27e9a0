"""A worker process as seen from the service."""

import asyncio
import contextlib
import multiprocessing
import signal
import socket
from collections.abc import Iterable
from multiprocessing.context import ForkServerProcess
from typing import Final

from services.scoring.pool.work import LENGTH
from services.scoring.pool.worker import run_worker

# Workers are forked from a server process that is begun afresh: to fork a process in which gRPC runs is not safe.
_CONTEXT: Final = multiprocessing.get_context("forkserver")

_LINGER_SECONDS: Final = 2.0
_START_SECONDS: Final = 60.0
"""From the fork until it is ready; it imports the service's main module first, which takes a second or two."""


class WorkerDiedError(Exception):
    """A worker process ended while it judged; the text says how."""


def preload(modules: Iterable[str]) -> None:
    """Name the modules that workers have from the start; works before the first one is started."""
    _CONTEXT.set_forkserver_preload([run_worker.__module__, *modules])


class WorkerProcess:
    """A process that judges one output at a time; made by ``start_worker``."""

    def __init__(self, process: ForkServerProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._ending: asyncio.Task[str] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it ended while it had nothing to do, as far as is known."""
        return self._reader.at_eof()

    async def ask(self, work: bytes) -> bytes:
        """Return the answer to some work. Whoever gives up waiting must end the worker.

        Raises:
            WorkerDiedError: it ended first.
        """
        with contextlib.suppress(OSError):
            # Where it died, reading says so.
            self._writer.write(LENGTH.pack(len(work)) + work)
            await self._writer.drain()
        return await self.answer()

    async def answer(self) -> bytes:
        """Return what it says next; the first is nothing, when it is ready.

        Raises:
            WorkerDiedError: it ended first.
        """
        try:
            [size] = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            # Its connection ends a moment before it does; how it ended says more than our kill.
            raise WorkerDiedError(await self.end(linger_seconds=_LINGER_SECONDS)) from None

    async def end(self, *, linger_seconds: float = 0.0) -> str:
        """Kill the process if it still runs after so many seconds, and return how it ended."""
        if self._ending is None:
            self._writer.close()
            self._ending = asyncio.create_task(asyncio.to_thread(_end, self._process, linger_seconds))
        # Whoever gives up waiting for the end does not prevent it.
        return await asyncio.shield(self._ending)


def _end(process: ForkServerProcess, linger_seconds: float) -> str:
    process.join(linger_seconds)
    process.kill()
    process.join()
    code = process.exitcode
    process.close()
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


async def start_worker(memory_bytes: int) -> WorkerProcess:
    """Start a worker that may have so much address space.

    Raises:
        WorkerDiedError: it ended before it was ready, or was not ready in time.
    """
    ours, theirs = socket.socketpair()
    try:
        process = _CONTEXT.Process(target=run_worker, args=(theirs, memory_bytes), daemon=True, name="scorer")
        with theirs:
            await asyncio.to_thread(process.start)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
    worker = WorkerProcess(process, reader, writer)
    try:
        async with asyncio.timeout(_START_SECONDS):
            await worker.answer()
    except TimeoutError:
        # Nobody's time limit counts yet, so that its place would be lost for good.
        raise WorkerDiedError(f"did not start within {_START_SECONDS:g} s: {await worker.end()}") from None
    return worker
