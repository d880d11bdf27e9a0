"""A real Redis on a free loopback port, started and ended by the test that needs it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.runtime.free_ports import free_port

_HOST = "127.0.0.1"
_START_SECONDS = 60.0


@dataclass
class RedisServer:
    """A running ``redis-server``; see ``running_redis``."""

    url: str
    port: int
    command: Sequence[str]
    log_path: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        _wait(self.port, self.process)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_redis(folder: Path, *, port: int | None = None) -> Iterator[RedisServer]:
    """Start Redis with its files in ``folder``; skips the test where the binary is not installed."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("needs redis-server (Debian: apt-get install redis-server)")
    port = port or free_port(_HOST)
    command = [binary, "--port", str(port), "--bind", _HOST, "--save", "", "--appendonly", "no", "--databases", "64"]
    command += ["--dir", str(folder), "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]
    server = RedisServer(f"redis://{_HOST}:{port}/0", port, command, folder / "redis.log")
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            if server.process.poll() is None:
                server.process.terminate()
            server.process.wait(60)


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up_at:
        assert process.poll() is None, "redis-server ended"
        try:
            with socket.create_connection((_HOST, port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("redis-server did not answer")
