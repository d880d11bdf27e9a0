"""Programs through code runners: real processes on loopback, one of which is killed under a program."""

import asyncio
import json
import os
import signal
import sys
import urllib.request
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from evalfleet.code_runner.v1 import code_runner_pb2
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from services.runtime.channels import open_channel
from services.runtime.errors import from_rpc_error
from services.runtime.free_ports import free_port
from services.runtime.testing import serve_in_process
from services.sandbox.contract import Ending, Program
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.scoring import program_attempts, remote_sandbox
from services.scoring.remote_sandbox import CodeRunnerUnreachableError, RemoteSandbox
from services.scoring.settings import ScoringSettings
from services.scoring.wiring import wire
from tests.integration.sandbox.hostile_programs import BEGINNING, HOSTILE_PROGRAMS, TESTS
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]

NAME = code_runner_pb2.DESCRIPTOR.services_by_name["CodeRunnerService"].full_name
RUNNING_PROGRAMS = f'evalfleet_calls_running{{grpc_method="{NAME}/RunProgram"}}'
LIMITS = {
    "EVALFLEET_SANDBOX_PROGRAMS": "2",
    "EVALFLEET_SANDBOX_MEMORY_BYTES": str(128 << 20),
    "EVALFLEET_SANDBOX_FILES_BYTES": str(8 << 20),
    "EVALFLEET_SANDBOX_PROCESSES": "16",
}
VERDICTS = {
    "pass": (Ending.PASSED, 60.0),
    "assert False": (Ending.WRONG, 60.0),
    "raise ValueError('x')": (Ending.EXCEPTION, 60.0),
    "def": (Ending.SYNTAX_ERROR, 60.0),
    **{
        HOSTILE_PROGRAMS[name].source.format(): (ending, HOSTILE_PROGRAMS[name].timeout_seconds)
        for name, ending in {
            "exit_at_exit": Ending.EXITED_EARLY,
            "forges_the_report": Ending.FORGED,
            "endless_loop": Ending.TIMED_OUT,
            "shared_memory": Ending.MEMORY_LIMIT,
            "thread_bomb": Ending.PROCESS_LIMIT,
            "huge_output_of_a_child": Ending.OUTPUT_LIMIT,
            "crash": Ending.KILLED,
        }.items()
    },
}
"""One program for each ending, and its time limit."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A code runner's process, and where it listens."""

    process: Process
    address: str
    metrics_address: str


@asynccontextmanager
async def code_runner(**variables: str) -> AsyncIterator[Runner]:
    metrics_port = free_port("127.0.0.1")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
    environment |= {
        "EVALFLEET_PORT": "0",
        "EVALFLEET_PARENT_PID": str(os.getpid()),
        "EVALFLEET_LOG_FORMAT": "json",
        "EVALFLEET_METRICS_PORT": str(metrics_port),
        **LIMITS,
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.code_runner", env=environment, stdout=PIPE, stderr=STDOUT
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            async for line in process.stdout:
                if line.startswith(b"{") and (event := json.loads(line))["event"] == "serving":
                    break
        yield Runner(process, event["address"], f"127.0.0.1:{metrics_port}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def target_of(runners: Sequence[Runner]) -> str:
    return f"ipv4:{','.join(each.address for each in runners)}"


@asynccontextmanager
async def remote(runners: Sequence[Runner]) -> AsyncIterator[RemoteSandbox]:
    target = target_of(runners)
    async with open_channel(target) as channel:
        yield RemoteSandbox(channel, target=target, programs=4, metrics=CollectorRegistry())


async def scored(
    stub: "scoring_pb2_grpc.ScoringServiceAsyncStub", request: scoring_pb2.ScoreRequest
) -> scoring_pb2.ScoreResponse:
    """Return the score, once this machine has had time for the program."""
    while True:
        try:
            return await stub.Score(request, timeout=2 * LONGEST_WAIT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if from_rpc_error(error).reason != SandboxBusyError.default_reason:
                raise


async def metrics_of(
    stub: "scoring_pb2_grpc.ScoringServiceAsyncStub", program: str, seconds: float
) -> dict[str, float]:
    """Return what the scorer says of a program, by the metrics that are not 0."""
    request = scoring_pb2.ScoreRequest(scorer="scorers/code_execution", text=BEGINNING + program)
    request.details.update({"tests": TESTS})
    request.parameters.update({"timeout_seconds": min(seconds, 60.0)})
    response = await scored(stub, request)
    return {name: value for name, value in response.metrics.items() if value}


async def verdicts(monkeypatch: pytest.MonkeyPatch, target: str) -> dict[str, dict[str, float]]:
    """Return what a scoring service says of each program."""
    for name, value in {**LIMITS, "EVALFLEET_CODE_RUNNER_TARGET": target}.items():
        monkeypatch.setenv(name, value)
    async with wire(ScoringSettings(), CollectorRegistry()) as services, serve_in_process(*services) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        told = await asyncio.gather(*(metrics_of(stub, each, seconds) for each, (_, seconds) in VERDICTS.items()))
    return dict(zip(VERDICTS, told, strict=True))


def has_a_program(runner: Runner) -> bool:
    """Whether a program is in hand there."""
    with urllib.request.urlopen(f"http://{runner.metrics_address}/metrics", timeout=LONGEST_WAIT_SECONDS) as response:
        return f"{RUNNING_PROGRAMS} 1.0" in response.read().decode()


async def kill_under_a_program(runners: Sequence[Runner]) -> Runner:
    """Kill whichever of them has a program; return it."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while True:
            for runner in runners:
                if await asyncio.to_thread(has_a_program, runner):
                    runner.process.send_signal(signal.SIGKILL)
                    await runner.process.wait()
                    return runner
            await asyncio.sleep(0.02)


async def one_is_killed_under_a_program(monkeypatch: pytest.MonkeyPatch, runners: Sequence[Runner]) -> None:
    """Check that the other one runs it, and that it has no ending once there is no other."""
    program = Program("import time\ntime.sleep(2)", "", LONGEST_WAIT_SECONDS)
    async with remote(runners) as sandbox:
        run = asyncio.ensure_future(sandbox.run(program))
        killed = await kill_under_a_program(runners)
        assert (await run).ending is Ending.PASSED
        [other] = [each for each in runners if each is not killed]
        run = asyncio.ensure_future(sandbox.run(program))
        # Nobody comes again.
        monkeypatch.setattr(remote_sandbox, "_RESTART_SECONDS", 1.0)
        await kill_under_a_program([other])
        with pytest.raises(CodeRunnerUnreachableError):
            await run


async def test_the_scorer_says_the_same_with_and_without_code_runners(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = {"passed": 1.0, "pass_at_k": 1.0, "pass_power_k": 1.0}
    expected = {
        each: passed if ending is Ending.PASSED else {ending.value: 1.0} for each, (ending, _) in VERDICTS.items()
    }
    assert {ending for ending, _ in VERDICTS.values()} == set(Ending)
    assert await verdicts(monkeypatch, "") == expected
    async with AsyncExitStack() as stack:
        runners = await asyncio.gather(*(stack.enter_async_context(code_runner()) for _ in range(2)))
        assert await verdicts(monkeypatch, target_of(runners)) == expected
        await one_is_killed_under_a_program(monkeypatch, runners)


async def test_a_runner_that_can_contain_nothing_serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no other.
    monkeypatch.setattr(program_attempts, "_REPLACEMENT_SECONDS", 0.0)
    variables = {"EVALFLEET_SANDBOX": "gvisor", "EVALFLEET_SANDBOX_PROGRAMS": "1"}
    async with code_runner(**variables) as runner, remote([runner]) as sandbox:
        async with open_channel(runner.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in (NAME, ""):
                told = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=LONGEST_WAIT_SECONDS)
                assert told.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(SandboxUnavailableError, match="which is not gVisor"):
            await sandbox.run(Program("", "", 1.0))
