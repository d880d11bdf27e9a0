"""A worker process as seen from the service."""

import asyncio
import contextlib
import multiprocessing
import resource
import signal
import socket
import threading
from collections.abc import Iterable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from services.scoring.pool.work import LENGTH
from services.scoring.pool.worker import run_worker

# Workers are forked from a server process that is begun afresh: to fork a process in which gRPC runs is not safe.
_CONTEXT: Final = multiprocessing.get_context("forkserver")

_LINGER_SECONDS: Final = 2.0
_START_SECONDS: Final = 60.0
"""From the fork until it is ready; it imports the service's main module first, which takes a second or two."""
_FORK_SECONDS: Final = 60.0
"""To be forked; the first of all waits for the server that forks, which imports what it is to preload."""


class WorkerDiedError(Exception):
    """A worker process ended while it judged; the text says how."""


def preload(modules: Iterable[str]) -> None:
    """Name the modules that workers have from the start; works before the first one is started."""
    _CONTEXT.set_forkserver_preload([run_worker.__module__, *modules])


class WorkerProcess:
    """A process that judges one output at a time; made by ``start_worker``."""

    def __init__(
        self,
        process: ForkServerProcess,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        memory_bytes: int,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._memory_bytes = memory_bytes
        self._first_bytes: int | None = None
        self._ending: asyncio.Task[str] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it ended while it had nothing to do, as far as is known."""
        return self._reader.at_eof()

    @property
    def growth(self) -> float:
        """Share of the address space free at its start that it has taken by now; 0.0 where the system does not say."""
        if self._first_bytes is None or self._process.pid is None:
            return 0.0
        grown = _address_bytes(self._process.pid) - self._first_bytes
        return grown / max(1, self._memory_bytes - self._first_bytes)

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

    async def be_ready(self) -> None:
        """Wait until it can judge.

        Raises:
            WorkerDiedError: it ended first.
        """
        await self.answer()
        if self._process.pid is not None:
            self._first_bytes = _address_bytes(self._process.pid)

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


def _address_bytes(pid: int) -> int:
    """Return how much address space a process has; 0 where the system does not say or it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


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
        WorkerDiedError: it ended before it was ready, or was not forked or not ready in time.
    """
    ours, theirs = socket.socketpair()
    try:
        process = _CONTEXT.Process(target=run_worker, args=(theirs, memory_bytes), daemon=True, name="scorer")
        with theirs:
            await _fork(process)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
    worker = WorkerProcess(process, reader, writer, memory_bytes)
    try:
        async with asyncio.timeout(_START_SECONDS):
            await worker.be_ready()
    except TimeoutError:
        # Nobody's time limit counts yet, so that its place would be lost for good.
        raise WorkerDiedError(f"did not start within {_START_SECONDS:g} s: {await worker.end()}") from None
    return worker


async def _fork(process: ForkServerProcess) -> None:
    """Start a process; one that starts after whoever waited has given up is killed.

    Raises:
        WorkerDiedError: it did not start in time.
    """
    loop = asyncio.get_running_loop()
    started: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not started.done():
            if error is None:
                started.set_result(None)
            else:
                started.set_exception(error)
        elif error is None:
            process.kill()

    def start() -> None:
        failure: BaseException | None = None
        try:
            process.start()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failure = error
        with contextlib.suppress(RuntimeError):
            # The loop may have ended meanwhile, and the process with it.
            loop.call_soon_threadsafe(tell, failure)

    # A thread of its own that nothing waits for at exit: the server that forks may never answer.
    threading.Thread(target=start, daemon=True, name="start_worker").start()
    try:
        async with asyncio.timeout(_FORK_SECONDS):
            await started
    except TimeoutError:
        raise WorkerDiedError(f"could not be forked within {_FORK_SECONDS:g} s") from None
