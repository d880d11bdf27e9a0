"""Our side: the four services as processes of their own, with a fake inference server, and one run through all."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from evalfleet.fleet import Fleet
from evalfleet.results import RunSnapshot, RunState

from benchmarks.overhead.processes import cpu_seconds, peak_mib
from benchmarks.overhead.workload import (
    DATA_FILE,
    SUITE,
    WARM_UP_SUITE,
    expected_score,
    write_checkpoint,
    write_items,
    write_suites,
)

CONCURRENCY = 256
_WARM_UP_ITEMS = 512
_POLL_SECONDS = 0.05
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_SERVICES = ("aggregation", "scoring", "generation", "evaluation")
_CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run of some items took.

    Attributes:
        items: how many.
        seconds: from CreateRun to its last estimate.
        cpu_seconds: by process, that of the client included.
        peaks_mib: highest resident memory, of each service and of the fake.
    """

    items: int
    seconds: float
    cpu_seconds: Mapping[str, float]
    peaks_mib: Mapping[str, float]

    @property
    def peak_mib(self) -> float:
        """Of all processes; each may have had its peak at another time."""
        return sum(self.peaks_mib.values())

    @property
    def cpu_seconds_per_item(self) -> float:
        """Of all processes."""
        return sum(self.cpu_seconds.values()) / self.items


class HostPath(AbstractContextManager["HostPath"]):
    """The services that an item passes through, for the length of a ``with`` statement; everything else is left out.

    Args:
        environment: settings beyond addresses and folders.
        profiles: receives a cProfile of every process, which makes them slower.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, profiles: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="evalfleet-overhead-")
        self._folder = Path(self._temporary.name)
        self._data = self._folder / "data"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")},
            "EVALFLEET_PORT": "0",
            "EVALFLEET_PARENT_PID": str(os.getpid()),
            "EVALFLEET_DRAIN_DELAY_SECONDS": "0",
            **(environment or {}),
        }
        self._profiles = profiles
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._targets: dict[str, str] = {}

    def __enter__(self) -> "HostPath":
        try:
            self._data.mkdir()
            suites = write_suites(self._folder / "definitions")
            write_items(self._data / f"warm_up_{DATA_FILE}", _WARM_UP_ITEMS, prefix="w")
            checkpoint = write_checkpoint(self._folder / "checkpoints" / "instant")
            self._start("instant_triton", "benchmarks.overhead.instant_triton")
            told = {
                "EVALFLEET_TRITON_TARGET": self._targets["instant_triton"],
                "EVALFLEET_CHECKPOINT_ROOTS": str(checkpoint.parent),
                "EVALFLEET_SUITE_DIRS": str(suites),
                "EVALFLEET_DATA_DIR": str(self._data),
                # It is not asked for anything: no task here wants a verdict.
                "EVALFLEET_SAFETY_TARGET": "127.0.0.1:1",
            }
            for name in _SERVICES:
                peers = {f"EVALFLEET_{each.upper()}_TARGET": target for each, target in self._targets.items()}
                self._start(name, f"services.{name}", {**told, **peers})
            with self._connect() as fleet:
                self._model = fleet.models.add(checkpoint).name
            self._run(WARM_UP_SUITE)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def measure(self, items: int) -> Cost:
        """Run so many items, each a question that was never asked here, and return what that took.

        Raises:
            RuntimeError: an item has no score, or the score is not what it has to be.
        """
        write_items(self._data / DATA_FILE, items)
        before, started = self._cpu_seconds(), time.perf_counter()
        snapshot = self._run(SUITE)
        seconds = time.perf_counter() - started
        after = self._cpu_seconds()
        self._check(snapshot, items)
        return Cost(
            items,
            seconds,
            {name: after[name] - before[name] for name in after},
            {name: peak_mib(process.pid) for name, process in self._processes.items()},
        )

    def _run(self, suite: str) -> RunSnapshot:
        with self._connect() as fleet:
            run = fleet.runs.start(model=self._model, suite=suite, concurrency=CONCURRENCY)
            for last in fleet.runs.watch(run.name):
                snapshot = last
        if snapshot.run.state is not RunState.SUCCEEDED:
            raise RuntimeError(f"the run did not succeed: {snapshot.run}\n{self.log('evaluation')[-4000:]}")
        return snapshot

    def _check(self, snapshot: RunSnapshot, items: int) -> None:
        [totals], [estimate] = snapshot.totals, snapshot.estimates
        if totals.scored_count != items or estimate.value is None:
            raise RuntimeError(f"{totals.scored_count} of {items} items were scored: {totals}")
        if abs(estimate.value - expected_score(items)) > 1e-9:
            raise RuntimeError(f"the score is {estimate.value}, and has to be {expected_score(items)}")

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    @property
    def process_ids(self) -> Mapping[str, int]:
        """The processes by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def _cpu_seconds(self) -> dict[str, float]:
        return {
            **{name: cpu_seconds(process.pid) for name, process in self._processes.items()},
            _CLIENT: time.process_time(),
        }

    def _connect(self) -> Fleet:
        return Fleet.connect({name: self._targets[name] for name in ("generation", "evaluation", "aggregation")})

    def _start(self, name: str, module: str, told: Mapping[str, str] | None = None) -> None:
        ready_file = self._folder / f"{name}.ready"
        environment = {
            **self._environment,
            "EVALFLEET_STATE_DIR": str(self._folder / name),
            "EVALFLEET_READY_FILE": str(ready_file),
            **(told or {}),
        }
        profiler = [] if self._profiles is None else ["-m", "cProfile", "-o", str(self._profiles / f"{name}.prof")]
        command = [sys.executable, *profiler, "-m", module]
        if not module.startswith("services."):
            command += ["--ready-file", str(ready_file)]
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        give_up_at = time.monotonic() + _START_SECONDS
        while not (ready_file.exists() and (target := ready_file.read_text(encoding="utf-8").strip())):
            if self._processes[name].poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{name} did not start:\n{self.log(name)[-4000:]}")
            time.sleep(_POLL_SECONDS)
        self._targets[name] = target

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._temporary.cleanup()
