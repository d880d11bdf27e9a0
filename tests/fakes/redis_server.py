"""A real Redis on a free loopback port, started and ended by the test that needs it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.runtime.free_ports import free_port

_HOST = "127.0.0.1"
_START_SECONDS = 60.0


@dataclass
class RedisServer:
    """A running ``redis-server``; ``process`` is its own."""

    url: str
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """Kill it, as a crash would."""
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
    with (folder / "redis.log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait(port, process)
            yield RedisServer(f"redis://{_HOST}:{port}/0", process)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


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
