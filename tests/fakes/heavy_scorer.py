"""A heavy scorer that does what its output says; importable in the processes of a pool."""

import os
import signal
import socket
import sys
import time
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
            case ["memory"]:
                return Score({"value": float(len(bytearray(2**40)))}, None)
            case ["typed"]:
                raise InvalidArgumentError("not this one", reason="NOT_THIS_ONE", metadata={"why": "asked"})
            case ["bug"]:
                raise ZeroDivisionError("secret detail")
        return Score({"value": 1.0}, str(os.getpid()))


def never_ready(connection: socket.socket, memory_bytes: int) -> None:
    """Stand in for ``run_worker`` in a process that hangs before it can judge."""
    while True:
        time.sleep(60)
