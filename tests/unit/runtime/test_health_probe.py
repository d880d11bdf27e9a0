"""The command that asks a server whether it is serving."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.runtime.free_ports import free_port
from services.runtime.health_probe import probe

AWAY = "evalfleet.away.v1.AwayService"


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """A server that serves, one of whose services does not."""
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set(AWAY, health_pb2.HealthCheckResponse.NOT_SERVING)
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_what_serves_has_no_problem(target: str) -> None:
    assert probe(target) == ""


def test_what_does_not_serve_is_said(target: str) -> None:
    assert probe(target, AWAY) == f"{target} is NOT_SERVING"
    assert probe(target, "unknown.Service") == f"{target} does not answer: NOT_FOUND"


def test_nobody_there_is_a_problem() -> None:
    nobody = f"127.0.0.1:{free_port('127.0.0.1')}"
    assert probe(nobody).startswith(f"{nobody} does not answer: ")


def test_the_command_asks_the_port_of_the_service_in_its_environment(target: str) -> None:
    command = [sys.executable, "-m", "services.runtime.health_probe"]
    environment = {**os.environ, "EVALFLEET_PORT": target.rpartition(":")[2], "https_proxy": "http://127.0.0.1:9"}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    away = subprocess.run([*command, target, AWAY], env=environment, capture_output=True, text=True, check=False)
    assert (away.returncode, away.stderr) == (1, f"{target} is NOT_SERVING\n")
    nowhere = {name: value for name, value in environment.items() if name != "EVALFLEET_PORT"}
    told = subprocess.run(command, env=nowhere, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "EVALFLEET_PORT" in told.stderr
