"""The safety service as a process of its own beside the Triton of a fleet: a second, where a fleet takes twenty."""

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
from evalfleet.safety.v1 import safety_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.free_ports import free_port
from services.standalone.testing import RunningFleet
from tests.patience import LONGEST_WAIT_SECONDS

HOST = "127.0.0.1"
START_SECONDS = 200.0
NAME = safety_pb2.DESCRIPTOR.services_by_name["SafetyService"].full_name


@dataclass(frozen=True)
class SafetyProcess:
    """Where it listens, and where its metrics are."""

    target: str
    metrics_target: str


@contextmanager
def running_safety(fleet: RunningFleet, folder: Path, **settings: str) -> Iterator[SafetyProcess]:
    """Start it with settings of its own (``GUARDS_FILE``), and stop it at the end; its guards are loaded."""
    metrics_target = f"{HOST}:{free_port(HOST)}"
    told = {
        "HOST": HOST,
        "PORT": "0",
        "METRICS_PORT": metrics_target.partition(":")[2],
        "READY_FILE": str(folder / "ready"),
        "STATE_DIR": str(folder / "state"),
        "PARENT_PID": str(os.getpid()),
        "DRAIN_DELAY_SECONDS": "0",
        "TRITON_TARGET": fleet.triton_target,
        "TRITON_KEY_FILE": str(fleet.state_dir / "inference" / "model-control.key"),
        **settings,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")}
    environment |= {f"EVALFLEET_{name}": value for name, value in told.items()}
    log_path = folder / "safety.log"
    # Of an earlier one in this folder.
    (folder / "ready").unlink(missing_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.safety"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield SafetyProcess(_target_when_serving(process, folder / "ready", log_path), metrics_target)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_WAIT_SECONDS) == 0, log_path.read_text()


def _target_when_serving(process: "subprocess.Popen[bytes]", ready_file: Path, log_path: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not ready_file.exists():
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline, log_path.read_text()
        time.sleep(0.05)
    target = ready_file.read_text().strip()
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=NAME)
        for answer in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=START_SECONDS):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return target
    raise AssertionError(log_path.read_text())
