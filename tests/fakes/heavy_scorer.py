"""A heavy scorer that does what its output says; importable in the processes of a pool."""

import os
import signal
import socket
import sys
import time
from mmap import mmap
from pathlib import Path

from services.runtime.errors import InvalidArgumentError
from services.scoring.contract import (
    MetricDescription,
    Output,
    Score,
    ScorerDescription,
    ScorerParameters,
    ScoringItem,
    TextOutput,
)

_KEPT: list[mmap] = []
"""What outputs before leave behind: address space that is never touched."""


class FakeHeavyScorer:
    """Says which process judged, or hangs, dies or fails."""

    about = ScorerDescription(
        "fake_heavy", "1", "Obeys.", (MetricDescription("value", "Always 1."),), is_heavy=True, preloads=("colorsys",)
    )
    parameters_type = ScorerParameters

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        """Obey the first word of the output, one of those below; anything else is answered at once."""
        assert isinstance(output, TextOutput)
        match output.text.split(" ", 1):
            case ["has", module]:
                return Score({"value": float(module in sys.modules)}, None)
            case ["hang"]:
                while True:
                    time.sleep(60)
            case ["pause", seconds]:
                time.sleep(float(seconds))
            case ["die"]:
                os.kill(os.getpid(), signal.SIGSEGV)
            case ["die-once", file]:
                if not Path(file).exists():
                    Path(file).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case ["exit"]:
                sys.exit(3)
            case ["keep" | "need" as verb, count]:
                _take(int(count), is_kept=verb == "keep")
            case ["typed"]:
                raise InvalidArgumentError("not this one", reason="NOT_THIS_ONE", metadata={"why": "asked"})
            case ["bug"]:
                raise ZeroDivisionError("secret detail")
        return Score({"value": 1.0}, str(os.getpid()))


def _take(size: int, *, is_kept: bool) -> None:
    try:
        taken = mmap(-1, size)
    except OSError:
        raise MemoryError from None
    if is_kept:
        _KEPT.append(taken)
    else:
        taken.close()


def never_ready(connection: socket.socket, memory_bytes: int) -> None:
    """Stand in for ``run_worker`` in a process that hangs before it can judge."""
    while True:
        time.sleep(60)
