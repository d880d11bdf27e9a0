"""Kills a fleet in the middle of a training and starts it again, while step times are taken."""

import json
import os
import signal
import statistics
import threading
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from types import TracebackType

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.standalone.errors import PartFailedError
from services.standalone.options import InferenceKind
from services.standalone.testing import RunningFleet

USD_PER_HOUR = 1.0
"""What an hour of its engines is said to cost."""

_LONGEST_END_SECONDS = 60.0


class Phase(StrEnum):
    """What the fleet does while a step is trained."""

    BEFORE = "fleet there"
    AWAY = "fleet killed"
    STARTING = "fleet starting again"
    AFTER = "fleet back"


class BreakableFleet(AbstractContextManager["BreakableFleet"]):
    """A fleet that can be killed and started again on the same state folder; it then listens on other ports.

    Attributes:
        state_dir: its state folder, by which clients find it.
        running: the fleet as it is now.
        phase: what it does.
        restart_cpu_seconds: processor time of this process that starting it again took.
    """

    def __init__(self, state_dir: Path, checkpoint_root: Path, inference: InferenceKind) -> None:
        self.state_dir = state_dir
        self._root = checkpoint_root
        self._inference: InferenceKind = inference
        prices = [{"models": "*", "usd_per_engine_second": USD_PER_HOUR / 3600}]
        self._price_table = checkpoint_root / "prices.json"
        self._price_table.write_text(json.dumps({"prices": prices}))
        self._restart: threading.Thread | None = None
        self._failure: PartFailedError | None = None
        self.phase = Phase.BEFORE
        self.restart_cpu_seconds = 0.0

    def __enter__(self) -> "BreakableFleet":
        self.running = self._start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._restart is not None:
            self._restart.join()
        self.running.__exit__(None, None, None)

    def break_off(self, away_seconds: float) -> None:
        """Kill the supervisor, whose parts end with it, and have another one started after so long; returns at once."""
        parts = list(self.running.processes.values())
        os.kill(self.running.process.pid, signal.SIGKILL)
        self.phase = Phase.AWAY
        self._restart = threading.Thread(target=self._start_again, args=(parts, away_seconds))
        self._restart.start()

    def wait_until_back(self) -> None:
        """Wait for the fleet that was started again.

        Raises:
            PartFailedError: it did not start.
        """
        if self._restart is not None:
            self._restart.join()
        if self._failure is not None:
            raise self._failure

    def _start(self) -> RunningFleet:
        return RunningFleet(
            state_dir=self.state_dir,
            checkpoint_roots=[self._root],
            inference=self._inference,
            environment={"EVALFLEET_PRICE_TABLE": str(self._price_table)},
        ).__enter__()

    def _start_again(self, parts: list[int], away_seconds: float) -> None:
        back_at = time.monotonic() + away_seconds
        give_up_at = time.monotonic() + _LONGEST_END_SECONDS
        while any(map(_is_running, parts)) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        time.sleep(max(0.0, back_at - time.monotonic()))
        self.phase = Phase.STARTING
        killed = self.running
        try:
            self.running = self._start()
            self.phase = Phase.AFTER
        except PartFailedError as error:
            self._failure = error
        killed.__exit__(None, None, None)
        self.restart_cpu_seconds = time.thread_time()


class StepTimes(TrainerCallback):
    """Takes the time from the beginning of one step to that of the next, but for steps that save or log.

    Attributes:
        seconds: of each step, by what the fleet did.
        last_step_ended: when (monotonic seconds).
    """

    def __init__(self, fleet: BreakableFleet | None = None) -> None:
        self._fleet = fleet
        self._began: float | None = None
        self.last_step_ended = 0.0
        self.seconds: dict[Phase, list[float]] = defaultdict(list)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the time."""
        now = time.perf_counter()
        if self._began is not None:
            self.seconds[self._fleet.phase if self._fleet else Phase.BEFORE].append(now - self._began)
        self._began = now

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Leave out what the trainer itself writes."""
        self.last_step_ended = time.monotonic()
        if control.should_save or control.should_log:
            self._began = None

    def medians(self) -> dict[Phase, float]:
        """Return the median step in seconds, by what the fleet did; phases without a step are left out."""
        return {phase: statistics.median(seconds) for phase, seconds in self.seconds.items() if seconds}


class Outage(TrainerCallback):
    """Kills the fleet right after a checkpoint was submitted, so that its evaluation has just begun."""

    def __init__(self, fleet: BreakableFleet, after_step: int, away_seconds: float) -> None:
        self._fleet = fleet
        self._after_step = after_step
        self._away_seconds = away_seconds

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Kill it when it is time."""
        if state.global_step == self._after_step:
            print(f"step {state.global_step}: the fleet is killed (SIGKILL); training goes on", flush=True)
            self._fleet.break_off(self._away_seconds)


def _is_running(process_id: int) -> bool:
    try:
        # The state stands behind the command's name, which may hold anything; Z has ended and waits to be reaped.
        state = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
