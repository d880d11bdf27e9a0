"""What a program's end is called, from what it said, how it exited and which limits it hit."""

import signal
from dataclasses import dataclass
from typing import Self

from services.sandbox.cgroups import LimitHits
from services.sandbox.contract import Ending, SandboxLimits

_LONGEST_EXPLANATION = 500
# bubblewrap exits with 128 and the signal that ended the program, as shells do.
_SIGNALLED = 128
_BY_ITSELF = (Ending.WRONG, Ending.SYNTAX_ERROR, Ending.FORGED)


@dataclass(frozen=True, slots=True)
class Report:
    """What the runner inside said in the end."""

    ending: Ending
    text: str

    @classmethod
    def parse(cls, line: bytes, secret: str) -> Self:
        """Read ``ended KIND SECRET TEXT``; who says anything else than the runner would is no runner."""
        words = line.decode(errors="replace").rstrip("\n").split(" ", 3)
        if len(words) < 3 or words[0] != "ended" or words[1] not in _REPORTED:
            return cls(Ending.FORGED, "what came from the runner was not its own")
        if words[1] == Ending.PASSED.value and words[2] != secret:
            return cls(Ending.FORGED, "passed was said without the secret")
        return cls(Ending(words[1]), words[3] if len(words) > 3 else "")


_REPORTED = frozenset(
    ending.value
    for ending in (
        *(Ending.PASSED, Ending.WRONG, Ending.EXCEPTION, Ending.SYNTAX_ERROR, Ending.EXITED_EARLY),
        *(Ending.MEMORY_LIMIT, Ending.PROCESS_LIMIT),
    )
)


@dataclass(frozen=True, slots=True)
class Exited:
    """The program's process ended without a report; its status is as bubblewrap passes it on."""

    status: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """It was stopped from outside, at this limit."""

    limit: Ending


@dataclass(frozen=True, slots=True)
class Told:
    """All that is known of a run's end."""

    what: Report | Exited | Stopped
    hits: LimitHits
    output: str


def name_ending(told: Told, limits: SandboxLimits) -> tuple[Ending, str]:
    """Return what the run ended in, and why in words."""
    ending, text = _apparent(told.what, limits)
    if ending is Ending.PASSED or ending in _BY_ITSELF:
        return ending, text
    # A process that was refused memory or another process seldom says so itself.
    if told.hits.memory:
        return Ending.MEMORY_LIMIT, f"more than {limits.memory_bytes >> 20} MiB of memory"
    if told.hits.processes:
        return Ending.PROCESS_LIMIT, f"more than {limits.processes} processes"
    return ending, text[:_LONGEST_EXPLANATION]


def _apparent(what: Report | Exited | Stopped, limits: SandboxLimits) -> tuple[Ending, str]:
    match what:
        case Report():
            return what.ending, what.text
        case Stopped(Ending.OUTPUT_LIMIT):
            return Ending.OUTPUT_LIMIT, f"more than {limits.output_bytes >> 10} KiB of output"
        case Stopped(Ending.MEMORY_LIMIT):
            return Ending.MEMORY_LIMIT, f"more than {limits.memory_bytes >> 20} MiB of memory"
        case Stopped(Ending.PROCESS_LIMIT):
            return Ending.PROCESS_LIMIT, f"more than {limits.processes} processes"
        case Stopped(limit):
            return limit, "still running when its time was up"
        case Exited(status) if status > _SIGNALLED:
            return _signalled(status - _SIGNALLED)
        case Exited(status):
            return Ending.EXITED_EARLY, f"exit status {status} before the tests were through"


def _signalled(number: int) -> tuple[Ending, str]:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGXCPU":
        return Ending.TIMED_OUT, "its CPU time was up"
    return Ending.KILLED, "SIGSYS: a forbidden system call" if name == "SIGSYS" else name
