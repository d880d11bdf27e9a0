"""A real Triton that a test may kill and start again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.runtime.free_ports import free_port
from tests.patience import LONGEST_WAIT_SECONDS

HOST = "127.0.0.1"
START_SECONDS = 200.0


class Triton:
    """A real Triton on a port of its own, which a test may kill and start again.

    Args:
        folder: its state.
        key_file: the model-control key of another one; by default it makes one of its own.
    """

    def __init__(self, folder: Path, key_file: Path | None = None) -> None:
        self.folder = folder
        self.key_file = key_file or folder / "model-control.key"
        self.port = free_port(HOST)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is ready."""
        ready_file = self.folder / "ready"
        ready_file.unlink(missing_ok=True)
        environment = {
            "EVALFLEET_HOST": HOST,
            "EVALFLEET_PORT": str(self.port),
            "EVALFLEET_STATE_DIR": str(self.folder),
            "EVALFLEET_TRITON_KEY_FILE": str(self.key_file),
            "EVALFLEET_READY_FILE": str(ready_file),
            "EVALFLEET_PARENT_PID": str(os.getpid()),
            "EVALFLEET_TORCH_THREADS": "1",
        }
        with (self.folder / "launcher.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.inference"], env=os.environ | environment, stdout=log, stderr=log
            )
        ends_at = time.monotonic() + START_SECONDS
        while not ready_file.exists():
            assert self.process.poll() is None, (self.folder / "launcher.log").read_text()
            assert time.monotonic() < ends_at, "Triton did not become ready"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the tritonserver process itself, with all that it has loaded."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in map(int, children):
            if "tritonserver" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(child, signal.SIGKILL)
        assert self.process.wait(LONGEST_WAIT_SECONDS) == 1

    def kill_engine(self, deployment: str) -> None:
        """Kill the process that runs one model."""
        found = [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and self._is_stub(folder, deployment)
        ]
        assert found, f"no process runs {deployment}"
        for process_id in found:
            os.kill(process_id, signal.SIGKILL)

    def _is_stub(self, folder: Path, deployment: str) -> bool:
        try:
            command = (folder / "cmdline").read_text()
        except OSError:
            return False
        return "triton_python_backend_stub" in command and deployment in command

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(LONGEST_WAIT_SECONDS)
