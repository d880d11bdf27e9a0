"""The safety service with nothing but Triton beside it, started by the two commands of the README, on free ports."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import grpc
from evalfleet.safety.v1 import safety_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVICE = safety_pb2.DESCRIPTOR.services_by_name["SafetyService"].full_name
_POLL_SECONDS = 0.1
_STOP_SECONDS = 30.0


class SafetyAlone(AbstractContextManager["SafetyAlone"]):
    """Runs ``python -m services.inference`` and ``python -m services.safety`` for the length of a ``with`` statement.

    Args:
        environment: settings of both beyond their addresses.
        start_timeout_seconds: longest time until the service reports SERVING.

    Attributes:
        target: ``host:port`` of the safety service.
        process_ids: of ``inference`` and ``safety``.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, start_timeout_seconds: float = 180.0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="evalfleet-safety-")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")},
            "EVALFLEET_PORT": "0",
            "EVALFLEET_PARENT_PID": str(os.getpid()),
            "EVALFLEET_DRAIN_DELAY_SECONDS": "0",
            **(environment or {}),
        }
        self._deadline_seconds = start_timeout_seconds
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.target = ""

    @property
    def process_ids(self) -> dict[str, int]:
        """The two processes, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (Path(self._folder.name) / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> "SafetyAlone":
        deadline = time.monotonic() + self._deadline_seconds
        try:
            triton = self._start("inference", {}, deadline)
            key = Path(self._folder.name) / "inference" / "model-control.key"
            told = {"EVALFLEET_TRITON_TARGET": triton, "EVALFLEET_TRITON_KEY_FILE": str(key)}
            self.target = self._start("safety", told, deadline)
            self._wait_until_serving(deadline)
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

    def _start(self, name: str, told: Mapping[str, str], deadline: float) -> str:
        """Start one process and return its address."""
        folder = Path(self._folder.name)
        ready_file = folder / f"{name}.ready"
        environment = {
            **self._environment,
            "EVALFLEET_STATE_DIR": str(folder / name),
            "EVALFLEET_READY_FILE": str(ready_file),
            **told,
        }
        with (folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"], env=environment, stdout=log, stderr=log
            )
        while not ready_file.exists():
            if self._processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{self.log(name)[-4000:]}")
            time.sleep(_POLL_SECONDS)
        return ready_file.read_text(encoding="utf-8").strip()

    def _wait_until_serving(self, deadline: float) -> None:
        with grpc.insecure_channel(self.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=_SERVICE), timeout=max(1.0, deadline - time.monotonic())
            )
            for status in watch:
                if status.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()
