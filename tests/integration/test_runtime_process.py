"""A real service process announces itself, drains on SIGTERM, follows its parent, and explains why it cannot start."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.channels import open_channel
from services.runtime.testing import as_bytes
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
UNARY = "/test.v1.TestService/Unary"
# Its method answers when the file named in the request exists, so that a test decides how long a call is in flight.
SERVICE = """
import asyncio, os, sys
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from services.runtime.entry import run_service
from services.runtime.errors import StartupError
from services.runtime.server import HostedService
from services.runtime.settings import ServiceSettings


async def unary(request, context):
    print("in flight", flush=True)
    while not os.path.exists(request.decode()):
        await asyncio.sleep(0.01)
    return b"done"


METHODS = {"Unary": grpc.unary_unary_rpc_method_handler(unary)}
GENERIC = grpc.method_handlers_generic_handler("test.v1.TestService", METHODS)


@asynccontextmanager
async def wiring(settings, registry):
    if "fail" in sys.argv:
        raise StartupError("no Triton at localhost:8001; start it with `evalfleet up`")
    if "crash" in sys.argv:
        raise RuntimeError("a bug")
    try:
        if "hang" in sys.argv:
            print("starting", flush=True)
            await asyncio.Event().wait()
        yield [HostedService("test.v1.TestService", lambda server: server.add_generic_rpc_handlers((GENERIC,)))]
    finally:
        print("taken down", flush=True)


if __name__ == "__main__":
    run_service("example", ServiceSettings, wiring)
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A started process and where it writes."""

    process: "subprocess.Popen[str]"
    folder: Path

    @property
    def ready_file(self) -> Path:
        return self.folder / "ready"

    def output(self) -> str:
        return (self.folder / "stdout").read_text()

    def errors(self) -> str:
        return (self.folder / "stderr").read_text()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the example service; the environment's variables are given as keywords."""
    (tmp_path / "example_service.py").write_text(SERVICE)
    running: list[Running] = []

    def run(*arguments: str, **variables: object) -> Running:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
        environment |= {"PYTHONPATH": str(REPOSITORY), "EVALFLEET_READY_FILE": str(folder / "ready")}
        environment |= {f"EVALFLEET_{key}".upper(): str(value) for key, value in variables.items()}
        with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, str(tmp_path / "example_service.py"), *arguments],
                stdout=stdout,
                stderr=stderr,
                env=environment,
                text=True,
            )
        running.append(Running(process, folder))
        return running[-1]

    yield run
    for each in running:
        each.process.kill()
        each.process.wait()


async def until(condition: Callable[[], bool], running: Running) -> None:
    """Wait for something that another process writes."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not condition():
            assert running.process.poll() is None, running.errors() + running.output()
            await asyncio.sleep(0.02)


async def exit_code(running: Running) -> int:
    return await asyncio.to_thread(running.process.wait, LONGEST_WAIT_SECONDS)


@contextmanager
def explained(running: Running) -> Iterator[None]:
    """Show the process's log when the test fails."""
    try:
        yield
    except BaseException:
        print(running.output(), running.errors())
        raise


async def serving(running: Running) -> str:
    await until(running.ready_file.exists, running)
    return await asyncio.to_thread(lambda: running.ready_file.read_text().strip())


async def test_sigterm_drains_and_loses_no_call(start: Start) -> None:
    running = start(drain_delay_seconds=0.2, drain_grace_seconds=600)
    with explained(running):
        async with open_channel(await serving(running)) as channel:
            call = channel.unary_unary(UNARY, as_bytes, as_bytes)
            release = running.folder / "release"
            in_flight = call(str(release).encode())
            await until(lambda: "in flight" in running.output(), running)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            running.process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            # The watch ends when the server begins to refuse calls.
            with pytest.raises(grpc.RpcError):
                await watch.read()
            with pytest.raises(grpc.RpcError) as refused:
                await call(b"new", timeout=LONGEST_WAIT_SECONDS)
            release.touch()
            assert await in_flight == b"done"
        assert await exit_code(running) == 0
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    events = [json.loads(line)["event"] for line in running.output().splitlines() if line.startswith("{")]
    expected = ["serving", "stop_requested", "draining", "call_finished", "stopped"]
    assert [event for event in events if event in expected] == [
        "serving",
        "stop_requested",
        "draining",
        "call_finished",  # the health watch
        "call_finished",  # the call in flight
        "stopped",
    ]
    assert running.output().splitlines()[-1] == "taken down"
    assert running.errors() == ""


async def test_a_second_signal_stops_at_once(start: Start) -> None:
    running = start(drain_grace_seconds=3600, drain_delay_seconds=0)
    async with open_channel(await serving(running)) as channel:
        call = channel.unary_unary(UNARY, as_bytes, as_bytes)(b"/never/there", timeout=3600)
        await until(lambda: "in flight" in running.output(), running)
        running.process.send_signal(signal.SIGINT)
        await until(lambda: "draining" in running.output(), running)
        running.process.send_signal(signal.SIGINT)
        with pytest.raises(grpc.RpcError):
            await call
        assert await exit_code(running) == 0


async def test_a_signal_while_starting_takes_down_what_was_started(start: Start) -> None:
    running = start("hang")
    await until(lambda: "starting" in running.output(), running)
    running.process.send_signal(signal.SIGTERM)
    assert await exit_code(running) == 0
    assert "taken down" in running.output()
    assert not running.ready_file.exists()


async def test_the_service_ends_with_its_parent(start: Start) -> None:
    parent = start()
    running = start(parent_pid=parent.process.pid)
    await serving(running)
    parent.process.kill()
    assert await exit_code(running) == 0
    assert "has ended" in running.output()


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (("fail",), {}, "example cannot start: no Triton at localhost:8001; start it with `evalfleet up`"),
        ((), {"port": "http"}, "example cannot start: EVALFLEET_PORT='http': "),
        ((), {"port": "{taken}"}, "example cannot start: cannot listen on 127.0.0.1:{taken}: address already in use; "),
        (
            (),
            {"metrics_port": "{taken}"},
            "example cannot start: cannot listen on 127.0.0.1:{taken}: address already in use; ",
        ),
    ],
)
async def test_what_prevents_the_start_is_one_line_and_exit_code_1(
    arguments: tuple[str, ...], variables: dict[str, str], expected: str, start: Start
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        running = start(*arguments, **{key: value.replace("{taken}", taken) for key, value in variables.items()})
        assert await exit_code(running) == 1
    assert running.errors().startswith(expected.replace("{taken}", taken))
    assert running.errors().count("\n") == 1
    assert "Traceback" not in running.errors() + running.output()


async def test_a_bug_while_starting_is_logged_and_exit_code_1(start: Start) -> None:
    running = start("crash")
    assert await exit_code(running) == 1
    assert running.errors() == "example stopped on an unexpected error; its log has the traceback\n"
    [line] = [line for line in map(json.loads, running.output().splitlines()) if line["event"] == "service_crashed"]
    assert "RuntimeError: a bug" in line["exception"]


async def test_of_two_processes_on_one_port_the_second_says_so(start: Start) -> None:
    first = start()
    port = (await serving(first)).rpartition(":")[2]
    second = start(port=port)
    assert await exit_code(second) == 1
    assert f"127.0.0.1:{port}" in second.errors()
    assert first.process.poll() is None
