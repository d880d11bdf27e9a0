"""What a sandbox is given and what it gives back."""

import enum
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Protocol


class Ending(enum.Enum):
    """How a program ended; every run ends in exactly one of these."""

    PASSED = "passed"
    WRONG = "wrong"
    EXCEPTION = "exception"
    SYNTAX_ERROR = "syntax_error"
    EXITED_EARLY = "exited_early"
    FORGED = "forged"
    TIMED_OUT = "timed_out"
    MEMORY_LIMIT = "memory_limit"
    PROCESS_LIMIT = "process_limit"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"


ENDINGS = {
    Ending.PASSED: "the program was loaded and its tests ran to their end.",
    Ending.WRONG: "an assertion failed.",
    Ending.EXCEPTION: "the program or its tests raised something else.",
    Ending.SYNTAX_ERROR: "the program cannot be compiled.",
    Ending.EXITED_EARLY: "the program ended before its tests did: sys.exit, os._exit.",
    Ending.FORGED: "the program said that it had passed without knowing how the runner says it.",
    Ending.TIMED_OUT: "it was still running when its time was up.",
    Ending.MEMORY_LIMIT: "it needed more memory, on tmpfs too, than it may have.",
    Ending.PROCESS_LIMIT: "it wanted more processes than it may have.",
    Ending.OUTPUT_LIMIT: "it wrote more to stdout and stderr than it may.",
    Ending.KILLED: "a signal ended it: a forbidden system call (SIGSYS), a crash, or its own.",
}
"""What each ending means."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program and what decides whether it is right.

    Attributes:
        source: Python; runs first, as a module of its own.
        tests: Python; runs after it in the same namespace, and says by an assertion or an exception that it is wrong.
        timeout_seconds: wall-clock time of both together, from the moment a sandbox takes the program; while others
            keep it from running, its clock stands still.
    """

    source: str
    tests: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a program.

    Attributes:
        ending: what it ended in.
        explanation: for people: the exception, the signal, the limit; cut to 500 characters.
        output: the beginning of what it wrote to stdout and stderr.
        seconds: wall-clock time that it took.
        sandbox_digest: of the description of the sandbox that ran it, where it was one of several; empty: of the one
            that was asked.
    """

    ending: Ending
    explanation: str
    output: str
    seconds: float
    sandbox_digest: str = ""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one program may use.

    Attributes:
        memory_bytes: of all its processes together, with what it writes to files.
        files_bytes: of the files that it writes, all in /tmp and in memory.
        processes: at once, threads included.
        open_files: of each process.
        output_bytes: to stdout and stderr together.
    """

    memory_bytes: int = 512 << 20
    files_bytes: int = 32 << 20
    processes: int = 32
    open_files: int = 64
    output_bytes: int = 64 << 10

    @property
    def address_bytes(self) -> int:
        """Address space of one process: twice its memory, since stacks of threads are reserved and seldom used."""
        return 2 * self.memory_bytes


@dataclass(frozen=True, slots=True)
class SandboxDescription:
    """What programs are run in.

    Attributes:
        boundary: what contains them: ``bubblewrap``, ``gvisor``.
        python_version: of the Python that runs them.
        limits: what one may use.
        measures: for people: what keeps a program to that, and apart from others.
        programs: how many are run at once.
    """

    boundary: str
    python_version: str
    limits: SandboxLimits
    measures: tuple[str, ...]
    programs: int

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it but the number of programs, which decides nothing about one of them."""
        told = {**asdict(self), "programs": None}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class Sandbox(Protocol):
    """Runs programs, each as if there had never been another."""

    async def describe(self) -> SandboxDescription:
        """Say what programs are run in; that is made now if it was not yet.

        Raises:
            SandboxUnavailableError: no program can be contained here.
            SandboxBusyError: the machine was too busy for the program that would show it; ask again.
            FleetError: it cannot be told now.
        """
        ...

    async def run(self, program: Program) -> Run:
        """Run one program to its end, its failure or its limit; cancelling this ends the program.

        Raises:
            SandboxUnavailableError: no program can be contained here, so none is run.
            SandboxBusyError: the program hardly had a processor.
            FleetError: what runs it went away; where that is UNAVAILABLE, it may be asked again.
        """
        ...

    async def close(self) -> None:
        """End every program, and leave nothing behind."""
        ...
