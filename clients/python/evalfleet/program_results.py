"""What the code runner says of programs, as plain values."""

import enum
from dataclasses import dataclass


class Ending(enum.StrEnum):
    """How a program ended; one that this version does not know is UNKNOWN, never PASSED."""

    UNKNOWN = "unknown"
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


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What became of a program.

    Attributes:
        ending: what it ended in.
        explanation: for people: the exception, the signal, the limit.
        output: the beginning of what it wrote to stdout and stderr.
        run_seconds: wall-clock time that it took.
        sandbox_digest: of the sandbox that it ran in.
    """

    ending: Ending
    explanation: str
    output: str
    run_seconds: float
    sandbox_digest: str

    @property
    def passed(self) -> bool:
        """Whether the program was loaded and its tests ran to their end."""
        return self.ending is Ending.PASSED


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a program is run in, and what it may use there.

    Attributes:
        boundary: what contains programs: ``bubblewrap`` or ``gvisor``.
        python_version: of the Python that runs them.
        programs: how many are run at once.
        measures: what keeps them apart, for people.
        digest: of all but the number of programs: runners that share it run a program alike.
        memory_bytes, files_bytes, processes, open_files, output_bytes: most that a program may take.
    """

    boundary: str
    python_version: str
    programs: int
    measures: tuple[str, ...]
    digest: str
    memory_bytes: int
    files_bytes: int
    processes: int
    open_files: int
    output_bytes: int
