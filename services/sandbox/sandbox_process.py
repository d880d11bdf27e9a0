"""One sandbox: started ahead of its program, runs that one, and is ended with all that it started."""

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import subprocess
from typing import Any

from services.sandbox.cgroups import ControlGroup
from services.sandbox.contract import Ending, Program, SandboxLimits
from services.sandbox.endings import Exited, Report, Stopped, Told
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.own_time import wait_own_time
from services.sandbox.process_tree import (
    Idle,
    ProcessorTime,
    children_of,
    descendants_of,
    processor_time_below,
    usage_below,
)
from services.sandbox.start_command import StartCommand

_START_SECONDS = 30.0
_TURNS_TO_READ = 4
_END_SECONDS = 5.0
_WATCH_SECONDS = 0.02
_SPARE_PROCESSES = 8
_LONGEST_REPORT = 4096
_OUTPUT_CHUNK = 1 << 18


class SandboxProcess:
    """A running sandbox that has not had its program yet; see ``starting``."""

    def __init__(
        self, child: subprocess.Popen[bytes], group: ControlGroup, limits: SandboxLimits, command: StartCommand
    ) -> None:
        loop = asyncio.get_running_loop()
        self._child = child
        self._group = group
        self._limits = limits
        self._remedy = command.remedy
        self._others = command.others_of_user
        self._exit_status: asyncio.Future[int] = loop.create_future()
        self._child_fd = _pidfd(child.pid)
        if self._child_fd is not None:
            loop.add_reader(self._child_fd, self._exited)
        else:
            self._waiting = asyncio.ensure_future(self._wait_in_a_thread())
        self._first_process: int | None = None
        self._idle = Idle()
        self._has_forked = False
        self._first_process_fd: int | None = None
        self._output = b""
        self._transports: list[asyncio.BaseTransport] = []

    async def connect(self, jobs_fd: int, reports_fd: int, output_fd: int) -> None:
        """Take over the ends of the pipes to the runner inside, and wait until it is ready for its program.

        Raises:
            SandboxUnavailableError: it ended instead, or takes too long.
        """
        self._reports = await self._reader(reports_fd, _LONGEST_REPORT)
        # A whole pipe is read at once, so that how much came before a report does not depend on luck.
        self._outputs = await self._reader(output_fd, _OUTPUT_CHUNK)
        loop = asyncio.get_running_loop()
        self._jobs, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(jobs_fd, "wb", 0))
        self._transports.append(self._jobs)
        limits = self._limits
        # The kernel's own limit lies above the group's, or the watch's, which notice that it was hit.
        processes = limits.processes + _SPARE_PROCESSES + self._others
        self._jobs.write(b"%d %d %d %d\n" % (limits.address_bytes, limits.files_bytes, processes, limits.open_files))
        try:
            async with asyncio.timeout(_START_SECONDS):
                line = await self._reports.readline()
        except TimeoutError:
            raise SandboxUnavailableError(f"a sandbox did not start within {_START_SECONDS:.0f} seconds") from None
        if line != b"warm\n":
            said = (await self._outputs.read(_LONGEST_REPORT)).decode(errors="replace").strip()
            raise SandboxUnavailableError(
                f"a sandbox cannot be started: {said or 'it says nothing'}. To make it work, {self._remedy}"
            )
        self._first_process = next(iter(children_of(self._child.pid)), None)
        if self._first_process is None and self._group.memory is None:
            raise SandboxUnavailableError(
                "neither control groups nor a view of processes in /proc are to be had here, so nothing would cap a "
                "program's memory"
            )
        if self._first_process is not None:
            with contextlib.suppress(OSError):
                self._first_process_fd = _pidfd(self._first_process)
            self._idle = Idle.of(self._first_process)

    @property
    def number(self) -> int:
        """The process that all of its processes come from."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether it can still take a program."""
        return not self._exit_status.done()

    def use_core(self, core: int) -> None:
        """Let it run on one core only, before its program comes: it cannot change that, nor can what it starts."""
        for process in children_of(self._first_process or 0):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(process, {core})

    @property
    def output(self) -> str:
        """The beginning of what the program wrote."""
        return self._output.decode(errors="replace")

    async def run(self, program: Program) -> Told:
        """Run the program until it ends or must be stopped; what it started may still run afterwards: ``end`` it.

        Raises:
            SandboxBusyError: it did not have its time, because it waited for a processor for most of it.
        """
        self._group.prefer()
        talk = asyncio.ensure_future(self._converse(program))
        overflow = asyncio.ensure_future(self._overflow())
        tasks: list[asyncio.Future[Any]] = [overflow, talk]
        if self._group.memory is None or self._group.ran_seconds() is None:
            tasks.append(asyncio.ensure_future(self._overuse()))
        try:
            await wait_own_time(tasks, program.timeout_seconds, self._processor_time)
            if talk.done():
                # What it wrote before it reported is in the pipe: it counts, however busy this process is.
                for _ in range(_TURNS_TO_READ):
                    await asyncio.sleep(0)
            what = next((task.result() for task in tasks if task.done()), Stopped(Ending.TIMED_OUT))
            return Told(what, self._group.hits(), self.output)
        finally:
            for task in tasks:
                task.cancel()
            self.kill()

    def kill(self) -> None:
        """End all its processes: none of them can refuse, or hide."""
        # Its first process rather than bubblewrap, which then collects it: no orphan is left to this machine's init.
        target = self._first_process_fd
        if target is None and self.is_running:
            target = self._child_fd
        with contextlib.suppress(ProcessLookupError):
            if target is not None:
                signal.pidfd_send_signal(target, signal.SIGKILL)
            elif self.is_running:
                # Without such descriptors: the number is its own until the child, which collects it, is collected.
                os.kill(self._first_process or self._child.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, wait until none of its processes is left, and give back what it held."""
        self.kill()
        try:
            async with asyncio.timeout(_END_SECONDS):
                if self._first_process_fd is not None:
                    await _readable(self._first_process_fd)
                await asyncio.shield(self._exit_status)
        except TimeoutError:
            self._child.kill()
            await self._exit_status
        for transport in self._transports:
            transport.close()
        if self._first_process_fd is not None:
            os.close(self._first_process_fd)
            self._first_process_fd = None
        self._group.remove()

    def _processor_time(self) -> ProcessorTime:
        if self._first_process is None:
            return ProcessorTime(0.0, {})
        told, ran_seconds = processor_time_below(self._first_process), self._group.ran_seconds()
        if ran_seconds is not None:
            return ProcessorTime(ran_seconds, told.waits)
        # Whose children's time nobody tells may wait for those: that is its own time.
        self._has_forked |= len(descendants_of(self._first_process)) > self._idle.processes
        return ProcessorTime(told.ran, {}) if self._has_forked else told

    async def _converse(self, program: Program) -> Report | Exited:
        source, tests, secret = program.source.encode(), program.tests.encode(), secrets.token_hex(16).encode()
        # All the time of one core, and some for rounding: beyond it a process ends even if nobody were watching.
        seconds = int(program.timeout_seconds) + 2
        self._jobs.write(b"%d %d\n" % (seconds, len(source)) + source)
        line = await self._next_report()
        if line == b"loaded\n":
            self._jobs.write(b"%d %d\n" % (len(tests), len(secret)) + tests + secret)
            line = await self._next_report()
        if line == b"":
            # The pipe may be closed by a program that goes on running.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    return Exited(await asyncio.shield(self._exit_status))
            return Exited(0)
        return Report.parse(line, secret.decode())

    async def _next_report(self) -> bytes:
        """Return the next line, or nothing once the program has ended."""
        reading = asyncio.ensure_future(self._reports.readline())
        await asyncio.wait((reading, self._exit_status), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            # It ended while a process that it left behind holds the pipe; what it said is in the pipe already.
            await asyncio.wait((reading,), timeout=0.05)
        if not reading.done():
            reading.cancel()
            return b""
        try:
            return reading.result()
        except ValueError:  # a line longer than any report
            return b"ended\n"

    async def _overflow(self) -> Stopped:
        while chunk := await self._outputs.read(_OUTPUT_CHUNK):
            self._output += chunk[: self._limits.output_bytes - len(self._output) + 1]
            if len(self._output) > self._limits.output_bytes:
                self._output = self._output[: self._limits.output_bytes]
                return Stopped(Ending.OUTPUT_LIMIT)
        return await asyncio.Future()

    async def _overuse(self) -> Stopped:
        while self._first_process is not None:
            await asyncio.sleep(_WATCH_SECONDS)
            usage = usage_below(self._first_process, self._idle)
            self._has_forked |= usage.processes > self._idle.processes
            if self._group.memory is not None:
                continue
            if usage.memory_bytes > self._limits.memory_bytes:
                return Stopped(Ending.MEMORY_LIMIT)
            if usage.processes > self._limits.processes + 1:
                return Stopped(Ending.PROCESS_LIMIT)
        return await asyncio.Future()

    async def _reader(self, fd: int, limit: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=limit)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
        )
        self._transports.append(transport)
        return reader

    def _exited(self) -> None:
        assert self._child_fd is not None
        asyncio.get_running_loop().remove_reader(self._child_fd)
        os.close(self._child_fd)
        self._exit_status.set_result(self._child.wait())

    async def _wait_in_a_thread(self) -> None:
        self._exit_status.set_result(await asyncio.to_thread(self._child.wait))


def _pidfd(process: int) -> int | None:
    """Return a file descriptor of a process, where the kernel has such."""
    try:
        return os.pidfd_open(process)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return None
        raise


async def _readable(fd: int) -> None:
    """Wait until a file descriptor can be read; one of a process can once that has ended."""
    loop, seen = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, seen.set)
    try:
        await seen.wait()
    finally:
        loop.remove_reader(fd)
