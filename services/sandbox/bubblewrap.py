"""The default sandbox: bubblewrap around a Python of its own, on the machine of the service itself."""

import asyncio
import itertools
import platform
import time

import structlog

from services.sandbox.cgroups import ControlGroups
from services.sandbox.command import SandboxCommand, find_tools
from services.sandbox.contract import Ending, Program, Run, SandboxDescription, SandboxLimits
from services.sandbox.endings import name_ending
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.opening import Opening, refusal_of
from services.sandbox.runtime_root import build_runtime_root, machine
from services.sandbox.sandbox_process import SandboxProcess
from services.sandbox.seccomp import seccomp_filter
from services.sandbox.self_check import CHECK
from services.sandbox.starting import start_sandbox
from services.sandbox.warm_pool import WarmPool
from services.sandbox.work_folder import WorkFolder, remove_abandoned

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
        self._opening = Opening(self._checked)

    async def describe(self) -> SandboxDescription:
        """Say what programs are run in; see ``Sandbox.describe``."""
        opened = await self._opening.get()
        return SandboxDescription(
            boundary="bubblewrap",
            python_version=platform.python_version(),
            limits=self._limits,
            measures=opened.measures,
            programs=self._running,
        )

    async def run(self, program: Program) -> Run:
        """Run one program; see ``Sandbox.run``."""
        opened = await self._opening.get()
        return await self._run_in(opened.pool, program)

    async def close(self) -> None:
        """End every program, and remove the files and groups made for them."""
        if (opened := await self._opening.take()) is not None:
            await opened.close()

    async def _run_in(self, pool: WarmPool, program: Program) -> Run:
        async with pool.sandbox() as process:
            started = time.perf_counter()
            told = await process.run(program)
            seconds = time.perf_counter() - started
        ending, explanation = name_ending(told, self._limits)
        return Run(ending, explanation, told.output, seconds)

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

    @property
    def measures(self) -> tuple[str, ...]:
        """What keeps programs apart, for people."""
        capped = self.groups.controllers
        return (
            "namespaces of its own: user, mount, process, network, IPC, UTS, control groups",
            "an allow-list of system calls",
            f"control groups cap {', '.join(capped)}" if capped else "no control groups",
            *(() if "memory" in capped else ("memory and processes are watched",)),
        )

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
            raise refusal_of(error) from error

    async def close(self) -> None:
        """End all sandboxes and remove what was made for them."""
        await self.pool.close()
        self.groups.close()
        await asyncio.to_thread(self._folder.remove)
