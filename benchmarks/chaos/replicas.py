"""Further replicas of services beside a fleet, such as evaluation services on one list of runs."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.free_ports import free_port

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_RESTART_SECONDS = 0.5


class ServiceReplica:
    """One process of a service, started when the ``with`` block is entered.

    Args:
        service: its name: ``scoring``.
        folder: of its files.
        environment: its settings.
        is_restarted: start it again whenever it dies, as an orchestrator does.

        target: ``host:port`` where it listens; default: a free port.

    Attributes:
        service: its name.
        target: ``host:port`` of its gRPC service.
    """

    def __init__(
        self,
        service: str,
        folder: Path,
        environment: Mapping[str, str],
        *,
        is_restarted: bool = False,
        target: str = "",
    ) -> None:
        self.service = service
        self.target = target or f"{_HOST}:{free_port(_HOST)}"
        self._log_path = folder / "log.txt"
        self._folder = folder
        self._environment = {
            **os.environ,
            "EVALFLEET_DRAIN_GRACE_SECONDS": "5",
            **environment,
            "EVALFLEET_STATE_DIR": str(folder),
            "EVALFLEET_PARENT_PID": str(os.getpid()),
        }
        self._is_restarted = is_restarted
        self._is_stopping = threading.Event()
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it serves."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = self._launch()
        try:
            self.wait_until_serving()
        except BaseException:
            self._process.kill()
            raise
        if self._is_restarted:
            self._watch = threading.Thread(target=self._keep, name=f"keeper of {self.target}", daemon=True)
            self._watch.start()
        return self

    @property
    def pid(self) -> int:
        """Its process, as it is now."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Stop it orderly, and wait until it has ended."""
        self._process.terminate()
        self._process.wait(_STOP_SECONDS)

    def begin_again(self, target: str = "") -> None:
        """Start it once more, there or elsewhere, and wait until it serves."""
        self.target = target or self.target
        self._process = self._launch()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Wait until its health service says SERVING."""
        give_up_at = time.monotonic() + _START_SECONDS
        with grpc.insecure_channel(self.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass
                ended = self._process.poll() is not None and not self._is_restarted
                if ended or time.monotonic() > give_up_at:
                    raise RuntimeError(
                        f"the {self.service} service at {self.target} does not serve:\n{self.log[-4000:]}"
                    )
                time.sleep(0.1)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_stopping.set()
        if self._watch is not None:
            self._watch.join(_STOP_SECONDS)
        if self._process.poll() is None:
            # One that a test has stopped takes no other signal before this one.
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _launch(self) -> "subprocess.Popen[bytes]":
        host, _, port = self.target.rpartition(":")
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"services.{self.service}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment, "EVALFLEET_HOST": host, "EVALFLEET_PORT": port},
                start_new_session=True,
            )

    def _keep(self) -> None:
        while not self._is_stopping.is_set():
            try:
                self._process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            if not self._is_stopping.wait(_RESTART_SECONDS):
                self._process = self._launch()


class EvaluationReplica(ServiceReplica):
    """One evaluation service.

    Args:
        endpoints: ``host:port`` of the other services, by name.
        folder: of its files.
        environment: its settings: EVALFLEET_RUNS_URL at least, EVALFLEET_SUITE_DIRS if there are any.
        is_restarted: start it again whenever it dies, as an orchestrator does.
    """

    def __init__(
        self,
        endpoints: Mapping[str, str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        is_restarted: bool = False,
    ) -> None:
        others = {
            f"EVALFLEET_{name.upper()}_TARGET": target for name, target in endpoints.items() if name != "evaluation"
        }
        super().__init__("evaluation", folder, {**others, **environment}, is_restarted=is_restarted)


def shared_counts(replicas: Sequence[EvaluationReplica]) -> Mapping[str, int]:
    """Return how many items of each run helpers have asked, as its owners have logged it."""
    counts: Counter[str] = Counter()
    for run, line in _logged(replicas, "run_shared"):
        if (found := re.search(r"\bitems\W+(\d+)", line)) is not None:
            counts[run] += int(found[1])
    return counts


def lost_block_counts(replicas: Sequence[EvaluationReplica]) -> Mapping[str, int]:
    """Return how many blocks of each run its owners have taken back from helpers that were lost."""
    lost = [
        run
        for run, line in _logged(replicas, "block_taken_back")
        if re.search(r"\bhad_holder\W+true", line, re.IGNORECASE)
    ]
    return Counter(lost)


def _logged(replicas: Sequence[EvaluationReplica], event: str) -> Iterator[tuple[str, str]]:
    """Yield each line of such an event, with the run that it is about."""
    for line in "\n".join(each.log for each in replicas).splitlines():
        if event in line and (run := re.search(r"\brun\W+(runs/[a-z0-9-]+)", line)) is not None:
            yield run[1], line
