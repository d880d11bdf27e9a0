"""The default sandbox: bubblewrap around a Python of its own, on the machine of the service itself."""

import asyncio
import itertools
import time

import structlog

from services.scoring.sandbox.cgroups import ControlGroups
from services.scoring.sandbox.command import SandboxCommand, find_tools
from services.scoring.sandbox.contract import Ending, Program, Run, SandboxLimits
from services.scoring.sandbox.endings import name_ending
from services.scoring.sandbox.errors import SandboxUnavailableError
from services.scoring.sandbox.runtime_root import build_runtime_root, machine
from services.scoring.sandbox.sandbox_process import SandboxProcess, start_sandbox
from services.scoring.sandbox.seccomp import seccomp_filter
from services.scoring.sandbox.self_check import CHECK
from services.scoring.sandbox.warm_pool import WarmPool
from services.scoring.sandbox.work_folder import WorkFolder, remove_abandoned

_RETRY_SECONDS = 30.0
_log = structlog.get_logger(__name__)


class BubblewrapSandbox:
    """Runs each program in a sandbox of its own, started ahead of it.

    Nothing is made before the first program comes: then Python is copied for the sandboxes, and a program that tries
    to get out decides whether there are any. What is missing is looked for again after half a minute.
    """

    def __init__(self, limits: SandboxLimits, running: int, ready: int) -> None:
        self._limits = limits
        self._running = running
        self._spare = ready
        self._opening = asyncio.Lock()
        self._opened: _Opened | None = None
        self._open_task: asyncio.Task[_Opened] | None = None
        self._refusal: SandboxUnavailableError | None = None
        self._refused_at = 0.0

    async def run(self, program: Program) -> Run:
        """Run one program; see ``Sandbox.run``."""
        opened = self._opened or await self._open()
        return await self._run_in(opened.pool, program)

    async def close(self) -> None:
        """End every program, and remove the files and groups made for them."""
        async with self._opening:
            if self._opened is not None:
                await self._opened.close()
                self._opened = None

    async def _run_in(self, pool: WarmPool, program: Program) -> Run:
        async with pool.sandbox() as process:
            started = time.perf_counter()
            told = await process.run(program)
            seconds = time.perf_counter() - started
        ending, explanation = name_ending(told, self._limits)
        return Run(ending, explanation, told.output, seconds)

    async def _open(self) -> "_Opened":
        # Not on the caller's time: who leaves must not drop what a thread is making.
        if self._open_task is None or self._open_task.done():
            self._open_task = asyncio.create_task(self._open_once())
        return await asyncio.shield(self._open_task)

    async def _open_once(self) -> "_Opened":
        async with self._opening:
            if self._opened is not None:
                return self._opened
            if self._refusal is not None and time.monotonic() - self._refused_at < _RETRY_SECONDS:
                raise self._refusal
            try:
                self._opened = await self._checked()
            except (SandboxUnavailableError, OSError) as error:
                refusal = _refusal(error)
                self._refusal, self._refused_at = refusal, time.monotonic()
                _log.error("sandbox_unavailable", reason=refusal.message)
                raise refusal from error
            return self._opened

    async def _checked(self) -> "_Opened":
        opened = await asyncio.to_thread(_Opened.prepare, self._limits)
        try:
            opened.groups.weigh(self._running)
            opened.pool = WarmPool(opened.start, self._spare, self._running)
            run = await self._run_in(opened.pool, CHECK)
            if run.ending is not Ending.PASSED:
                raise SandboxUnavailableError(
                    f"a sandbox on this machine does not contain what it must, so nothing is run in it: "
                    f"{run.ending.value}: {run.explanation} {run.output}".strip()
                )
        except BaseException:
            await opened.close()
            raise
        _log.info(
            "sandbox_ready",
            programs_at_once=self._running,
            capped_by_groups=opened.groups.controllers,
            watched_instead="memory" not in opened.groups.controllers,
            memory_mib=self._limits.memory_bytes >> 20,
            processes=self._limits.processes,
        )
        return opened


class _Opened:
    """What exists once sandboxes can be started."""

    pool: WarmPool

    def __init__(
        self, folder: WorkFolder, command: SandboxCommand, groups: ControlGroups, limits: SandboxLimits
    ) -> None:
        self.groups = groups
        self._folder = folder
        self._command = command
        self._limits = limits
        self._numbers = itertools.count()

    @classmethod
    def prepare(cls, limits: SandboxLimits) -> "_Opened":
        """Make the files and groups that sandboxes need. Blocks for about a second.

        Raises:
            SandboxUnavailableError: a tool is missing, or the processor or Python is one that is not known.
        """
        bubblewrap, setpriv = find_tools()
        try:
            compiled = seccomp_filter(machine())
        except KeyError:
            raise SandboxUnavailableError(f"no system calls are known of the processor {machine()}") from None
        folder = WorkFolder.make()
        try:
            root = build_runtime_root(folder.path / "root")
            (folder.path / "seccomp").write_bytes(compiled)
        except BaseException:
            folder.remove()
            raise
        for name in remove_abandoned():
            ControlGroups(name).close()
        return cls(folder, SandboxCommand(bubblewrap, setpriv, root, limits), ControlGroups(folder.path.name), limits)

    async def start(self) -> SandboxProcess:
        """Start one sandbox.

        Raises:
            SandboxUnavailableError: it cannot be started; that is never the fault of a program.
        """
        try:
            group = self.groups.make(str(next(self._numbers)), self._limits)
            return await start_sandbox(self._command, self._folder.path / "seccomp", group, self._limits)
        except OSError as error:
            raise _refusal(error) from error

    async def close(self) -> None:
        """End all sandboxes and remove what was made for them."""
        await self.pool.close()
        self.groups.close()
        await asyncio.to_thread(self._folder.remove)


def _refusal(error: SandboxUnavailableError | OSError) -> SandboxUnavailableError:
    if isinstance(error, SandboxUnavailableError):
        return error
    return SandboxUnavailableError(f"what a sandbox needs cannot be made on this machine: {error}")
