"""One service as a process of its own, with settings that a fleet on one machine does not have."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.free_ports import free_port
from tests.patience import LONGEST_WAIT_SECONDS

HOST = "127.0.0.1"
START_SECONDS = 200.0


@dataclass(frozen=True)
class ServiceProcess:
    """Where it listens, and where its metrics are."""

    target: str
    metrics_target: str


@contextmanager
def running_service(
    name: str, full_name: str, folder: Path, *, credentials: grpc.ChannelCredentials | None = None, **settings: str
) -> Iterator[ServiceProcess]:
    """Start ``services.NAME`` and stop it at the end; it serves all along.

    Args:
        name: of its package.
        full_name: of the gRPC service whose health is waited for.
        folder: receives its log and its state.
        credentials: to ask for its health with, where it has certificates.
        settings: its own (``GUARDS_FILE``).
    """
    metrics_target = f"{HOST}:{free_port(HOST)}"
    ready_file, log_path = folder / "ready", folder / f"{name}.log"
    told = {
        "HOST": HOST,
        "PORT": "0",
        "METRICS_PORT": metrics_target.partition(":")[2],
        "READY_FILE": str(ready_file),
        "STATE_DIR": str(folder / "state"),
        "PARENT_PID": str(os.getpid()),
        "DRAIN_DELAY_SECONDS": "0",
        **settings,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")}
    environment |= {f"EVALFLEET_{name}": value for name, value in told.items()}
    folder.mkdir(parents=True, exist_ok=True)
    # Of an earlier one in this folder.
    ready_file.unlink(missing_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        target = _target(process, ready_file, log_path)
        _wait_until_serving(target, full_name, credentials, log_path)
        yield ServiceProcess(target, metrics_target)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_WAIT_SECONDS) == 0, log_path.read_text()


def _target(process: "subprocess.Popen[bytes]", ready_file: Path, log_path: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not ready_file.exists():
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline, log_path.read_text()
        time.sleep(0.05)
    return ready_file.read_text().strip()


def _wait_until_serving(
    target: str, full_name: str, credentials: grpc.ChannelCredentials | None, log_path: Path
) -> None:
    opened = grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials)
    with opened as channel:
        request = health_pb2.HealthCheckRequest(service=full_name)
        for answer in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=START_SECONDS):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
    raise AssertionError(log_path.read_text())
