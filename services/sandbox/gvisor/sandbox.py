"""A sandbox whose boundary is the container: gVisor's kernel around it, one program in it at a time."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from services.runtime.places import Places
from services.sandbox.cgroups import ControlGroup
from services.sandbox.contract import Ending, Program, Run, SandboxDescription, SandboxLimits
from services.sandbox.endings import name_ending
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.gvisor.command import GvisorCommand
from services.sandbox.gvisor.detection import require_gvisor
from services.sandbox.gvisor.leftovers import remove_leftovers
from services.sandbox.gvisor.self_check import CHECK
from services.sandbox.opening import Opening
from services.sandbox.process_tree import descendants_of
from services.sandbox.runtime_root import RuntimeRoot, machine, open_runtime_root
from services.sandbox.sandbox_process import SandboxProcess
from services.sandbox.seccomp import seccomp_filter
from services.sandbox.starting import start_sandbox
from services.sandbox.work_folder import WorkFolder

_MEASURES: Final = (
    "the container's kernel is gVisor",
    "one program at a time, and what it left is removed before the next",
    "namespaces of its own: user, process, network, IPC, UTS",
    "a read-only root of its own, without /proc",
    "an allow-list of system calls",
    "memory and processes are watched",
)
_VANISH_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.01
_log = structlog.get_logger(__name__)


class GvisorSandbox:
    """Runs one program at a time in a place of its own inside this container.

    Nothing is run before the kernel has shown that it is gVisor, and a program that tries to get out has failed to.

    Args:
        limits: what one program may use.
        root: folder of Python for programs, in which only ``tmp`` can be written to; see ``runtime_root``.
        on_spoiled: called if what a program left cannot be removed; nothing is run here any more then.
        require_kernel: returns the release of gVisor's kernel; raises where this is another one.
    """

    def __init__(
        self,
        limits: SandboxLimits,
        root: Path,
        *,
        on_spoiled: Callable[[], None],
        require_kernel: Callable[[], str] = require_gvisor,
    ) -> None:
        self._limits = limits
        self._root = root
        self._on_spoiled = on_spoiled
        self._require_kernel = require_kernel
        self._places = Places(1)
        self._opening = Opening(self._checked)
        self._spoiled: SandboxUnavailableError | None = None

    async def describe(self) -> SandboxDescription:
        """Say what programs are run in; see ``Sandbox.describe``."""
        container = await self._container()
        return SandboxDescription("gvisor", container.root.python_version, self._limits, _MEASURES, programs=1)

    async def run(self, program: Program) -> Run:
        """Run one program; see ``Sandbox.run``."""
        return await self._run_in(await self._container(), program)

    async def close(self) -> None:
        """End the program that runs and the place that waits for one, and remove what was made."""
        if (container := await self._opening.take()) is not None:
            await container.close()

    async def _container(self) -> "_Container":
        if self._spoiled is not None:
            raise self._spoiled.again()
        return await self._opening.get()

    async def _run_in(self, container: "_Container", program: Program) -> Run:
        async with self._places.place():
            process = await container.take()
            if self._spoiled is not None:
                container.begin_clearing(process, self._spoil)
                raise self._spoiled.again()
            try:
                started = time.perf_counter()
                told = await process.run(program)
                seconds = time.perf_counter() - started
            finally:
                # Not on the caller's time; the next program waits for it.
                process.kill()
                container.begin_clearing(process, self._spoil)
        ending, explanation = name_ending(told, self._limits)
        return Run(ending, explanation, told.output, seconds)

    async def _checked(self) -> "_Container":
        release = self._require_kernel()
        container = await asyncio.to_thread(_Container.prepare, self._root, self._limits)
        try:
            run = await self._run_in(container, CHECK)
            if run.ending is not Ending.PASSED:
                raise SandboxUnavailableError(
                    f"a place in this container does not contain what it must, so nothing is run in it: "
                    f"{run.ending.value}: {run.explanation} {run.output}".strip()
                )
            await container.cleared()
            if self._spoiled is not None:
                raise self._spoiled.again()
        except BaseException:
            await container.close()
            raise
        _log.info(
            "sandbox_ready",
            kernel=release,
            programs_at_once=1,
            memory_mib=self._limits.memory_bytes >> 20,
            processes=self._limits.processes,
        )
        return container

    def _spoil(self, error: Exception) -> None:
        if self._spoiled is not None:
            return
        self._spoiled = SandboxUnavailableError(f"nothing is run here any more: {error}")
        _log.error("sandbox_spoiled", reason=self._spoiled.message)
        self._on_spoiled()


@dataclass(slots=True)
class _Container:
    """What exists once programs can be run.

    Attributes:
        root: what they see.
        folder: of the filter's file.
        limits: what one may use.
        others: processes below this one that are none of a program's.
    """

    root: RuntimeRoot
    folder: WorkFolder
    limits: SandboxLimits
    others: frozenset[int]
    _next: asyncio.Task[SandboxProcess] | None = None
    _clearing: asyncio.Task[None] | None = None
    _is_closed: bool = False

    @classmethod
    def prepare(cls, root: Path, limits: SandboxLimits) -> "_Container":
        """Find or make the files that programs need. Blocks.

        Raises:
            SandboxUnavailableError: there is no Python for programs, or the processor is not known.
            OSError: the folder that they write to is not empty, and cannot be emptied.
        """
        opened = open_runtime_root(root)
        try:
            compiled = seccomp_filter(machine())
        except KeyError:
            raise SandboxUnavailableError(f"no system calls are known of the processor {machine()}") from None
        remove_leftovers(root / "tmp")
        folder = WorkFolder.make()
        (folder.path / "seccomp").write_bytes(compiled)
        return cls(opened, folder, limits, frozenset(descendants_of(os.getpid())))

    async def take(self) -> SandboxProcess:
        """Return a place in which nothing has run, once the one before it is gone.

        Raises:
            SandboxUnavailableError: none can be started.
        """
        await self.cleared()
        if self._next is not None and self._next.done() and self._next.exception() is not None:
            # One that could not be started while nobody wanted it says nothing about now.
            self._next = None
        while not self._is_closed:
            taken = self._next or self._start()
            self._next = None
            try:
                process = await asyncio.shield(taken)
            except asyncio.CancelledError:
                self._next = taken
                raise
            if process.is_running:
                # It starts while this one's program runs, which cannot see it, and touches nothing that it will see.
                self._next = self._start()
                return process
            await process.end()
        raise SandboxUnavailableError("the sandbox has been closed")

    def begin_clearing(self, process: SandboxProcess, on_spoiled: Callable[[Exception], None]) -> None:
        """Begin to remove a program with all that it left.

        Args:
            process: the program's.
            on_spoiled: called if something cannot be removed.
        """
        self._clearing = asyncio.create_task(self._clear(process, on_spoiled))

    async def cleared(self) -> None:
        """Wait until the last program is gone with all that it left."""
        if self._clearing is not None:
            await asyncio.shield(self._clearing)

    async def close(self) -> None:
        """End what waits, and remove what was made."""
        self._is_closed = True
        if self._clearing is not None:
            await asyncio.wait([self._clearing])
        if self._next is not None:
            with contextlib.suppress(SandboxUnavailableError, OSError):
                await (await self._next).end()
        await asyncio.to_thread(self.folder.remove)

    async def _clear(self, process: SandboxProcess, on_spoiled: Callable[[Exception], None]) -> None:
        try:
            await process.end()
            await self._vanished()
            await asyncio.to_thread(remove_leftovers, self.root.folder / "tmp")
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody knows what is left
            on_spoiled(error)

    async def _vanished(self) -> None:
        """Wait until no process is left but those of the place that waits for the next program."""
        waiting: set[int] = set()
        if self._next is not None:
            with contextlib.suppress(SandboxUnavailableError, OSError):
                waiting = set(descendants_of((await asyncio.shield(self._next)).number))
        ends = time.monotonic() + _VANISH_SECONDS
        while left := set(descendants_of(os.getpid())) - self.others - waiting:
            if time.monotonic() > ends:
                raise OSError(f"processes of a program are left: {sorted(left)}")
            await asyncio.sleep(_LOOK_SECONDS)

    def _start(self) -> asyncio.Task[SandboxProcess]:
        command = GvisorCommand(self.root)
        return asyncio.create_task(start_sandbox(command, self.folder.path / "seccomp", ControlGroup(), self.limits))
