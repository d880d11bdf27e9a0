"""The code runner's face: what it refuses, what it says when it contains nothing, and how much it takes on."""

import asyncio

import grpc
import pytest
from evalfleet.code_runner.v1 import code_runner_pb2, code_runner_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from services.code_runner import service, wiring
from services.code_runner.metrics import CodeRunnerMetrics
from services.code_runner.service import FULL_NAME, hosted
from services.code_runner.settings import CodeRunnerSettings
from services.code_runner.wiring import wire
from services.runtime.errors import FleetError, UnavailableError, from_rpc_error
from services.runtime.testing import run_in_process, serve_in_process
from services.sandbox.contract import Ending, Program, Run, SandboxDescription
from services.sandbox.errors import SandboxBusyError
from services.sandbox.remote_terms import has_begun
from tests.fakes.sandbox import DESCRIPTION, FakeSandbox
from tests.patience import LONGEST_WAIT_SECONDS, until


def request(seconds: float = 5.0, source: str = "pass") -> code_runner_pb2.RunProgramRequest:
    timeout = Duration()
    timeout.FromNanoseconds(int(seconds * 1e9))
    return code_runner_pb2.RunProgramRequest(source=source, timeout=timeout)


async def failure_of(
    stub: "code_runner_pb2_grpc.CodeRunnerServiceAsyncStub", asked: code_runner_pb2.RunProgramRequest
) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RunProgram(asked, timeout=LONGEST_WAIT_SECONDS)
    return from_rpc_error(caught.value)


async def test_a_program_without_a_time_limit_is_refused() -> None:
    sandbox = FakeSandbox(lambda _: Ending.PASSED)
    async with serve_in_process(hosted(sandbox, CodeRunnerMetrics(CollectorRegistry()))) as channel:
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(channel)
        for wrong in (code_runner_pb2.RunProgramRequest(source="pass"), request(0), request(-1), request(601)):
            failure = await failure_of(stub, wrong)
            assert failure.reason == "INVALID_PROGRAM"
            assert [each.field for each in failure.field_violations] == ["timeout"]
    assert sandbox.programs == []


async def test_without_a_sandbox_it_is_not_serving_and_runs_nothing() -> None:
    sandbox = FakeSandbox(lambda _: Ending.PASSED)
    sandbox.is_available = False
    registry = CollectorRegistry()
    settings = CodeRunnerSettings(port=0, readiness_interval_seconds=0.01)
    async with serve_in_process(hosted(sandbox, CodeRunnerMetrics(registry)), settings=settings) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service=FULL_NAME)
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert registry.get_sample_value("evalfleet_code_runner_sandbox_available") == 0
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(channel)
        failure = await failure_of(stub, request())
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SANDBOX_UNAVAILABLE")
        # It is looked for again.
        sandbox.is_available = True
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            async for status in health.Watch(asked):
                if status.status == health_pb2.HealthCheckResponse.SERVING:
                    break
    assert registry.get_sample_value("evalfleet_code_runner_sandbox_available") == 1
    assert sandbox.programs == []


class Busy(FakeSandbox):
    """Is on a machine that is too busy at first for the program that shows whether anything is contained."""

    looks = 0

    async def describe(self) -> SandboxDescription:
        self.looks += 1
        if self.looks <= 2:
            raise SandboxBusyError("this machine is too busy", retry_after_seconds=2.0)
        return await super().describe()


async def test_a_machine_too_busy_to_show_what_it_contains_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Busy(lambda _: Ending.PASSED)
    monkeypatch.setattr(wiring, "_open_sandbox", lambda _: sandbox)
    settings = CodeRunnerSettings(port=0, readiness_interval_seconds=0.01)
    async with wire(settings, CollectorRegistry()) as services:
        assert sandbox.looks == 1
        readiness = services[0].readiness
        assert readiness is not None
        assert not await readiness()
        assert await readiness()
        async with serve_in_process(*services, settings=settings) as channel:
            stub = code_runner_pb2_grpc.CodeRunnerServiceStub(channel)
            assert (await _run(stub, request())).ending == code_runner_pb2.ENDING_PASSED


async def test_there_is_one_sandbox() -> None:
    sandbox = FakeSandbox(lambda _: Ending.PASSED)
    async with serve_in_process(hosted(sandbox, CodeRunnerMetrics(CollectorRegistry()))) as channel:
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetSandbox(code_runner_pb2.GetSandboxRequest(name="sandboxes/2"))
        assert from_rpc_error(caught.value).reason == "SANDBOX_NOT_FOUND"


async def test_endings_are_counted() -> None:
    sandbox = FakeSandbox(lambda program: Ending(program.source))
    registry = CollectorRegistry()
    async with serve_in_process(hosted(sandbox, CodeRunnerMetrics(registry))) as channel:
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(channel)
        for ending in ("passed", "killed", "passed"):
            await stub.RunProgram(request(source=ending))
    counted = {
        ending: registry.get_sample_value("evalfleet_code_runner_programs_total", {"ending": ending})
        for ending in ("passed", "killed", "wrong")
    }
    assert counted == {"passed": 2, "killed": 1, "wrong": 0}


class Endless(FakeSandbox):
    """Holds every program until it is told to let go, and notes who left before."""

    def __init__(self) -> None:
        super().__init__(lambda _: Ending.PASSED)
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.held = 0
        self.left = asyncio.Event()

    async def run(self, program: Program) -> Run:
        self.begun.set()
        self.held += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return await super().run(program)


async def test_more_programs_than_run_and_wait_are_told_when_to_come_back() -> None:
    sandbox = Endless()
    async with run_in_process(hosted(sandbox, CodeRunnerMetrics(CollectorRegistry()), waiting=1)) as running:
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(running.channel)
        in_hand = [asyncio.ensure_future(_run(stub, request())) for _ in range(2 * DESCRIPTION.programs)]
        method = {"grpc_method": f"{FULL_NAME}/RunProgram"}
        await until(lambda: running.registry.get_sample_value("evalfleet_calls_running", method) == len(in_hand))
        assert sandbox.held == DESCRIPTION.programs
        failure = await failure_of(stub, request())
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.retry_after_seconds
        sandbox.go_on.set()
        assert {each.ending for each in await asyncio.gather(*in_hand)} == {code_runner_pb2.ENDING_PASSED}
        # There is room again.
        assert (await _run(stub, request())).ending == code_runner_pb2.ENDING_PASSED


async def test_a_program_that_waits_too_long_for_its_turn_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LONGEST_TURN_SECONDS", 0.05)
    sandbox = Endless()
    async with run_in_process(hosted(sandbox, CodeRunnerMetrics(CollectorRegistry()))) as running:
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(running.channel)
        in_hand = [asyncio.ensure_future(_run(stub, request())) for _ in range(DESCRIPTION.programs)]
        await until(lambda: sandbox.held == DESCRIPTION.programs)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RunProgram(request(), timeout=LONGEST_WAIT_SECONDS)
        failure = from_rpc_error(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "PROGRAM_HAD_NO_TURN")
        assert failure.retry_after_seconds
        assert not has_begun(caught.value.initial_metadata())
        sandbox.go_on.set()
        await asyncio.gather(*in_hand)
        # Its place in the queue is nobody's.
        assert (await _run(stub, request())).ending == code_runner_pb2.ENDING_PASSED


async def test_who_asks_learns_that_the_program_has_begun_even_if_it_fails() -> None:
    def fail(_: Program) -> Ending:
        raise UnavailableError("the machine is going down")

    sandbox = FakeSandbox(fail)
    async with serve_in_process(hosted(sandbox, CodeRunnerMetrics(CollectorRegistry()))) as channel:
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(channel)
        for is_available in (True, False):
            sandbox.is_available = is_available
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RunProgram(request(), timeout=LONGEST_WAIT_SECONDS)
            assert has_begun(caught.value.initial_metadata()) is is_available


async def test_a_program_ends_with_its_call() -> None:
    sandbox = Endless()
    async with run_in_process(hosted(sandbox, CodeRunnerMetrics(CollectorRegistry()))) as running:
        stub = code_runner_pb2_grpc.CodeRunnerServiceStub(running.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RunProgram(request(seconds=60), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if sandbox.begun.is_set():
            await asyncio.wait_for(sandbox.left.wait(), LONGEST_WAIT_SECONDS)


async def _run(
    stub: "code_runner_pb2_grpc.CodeRunnerServiceAsyncStub", asked: code_runner_pb2.RunProgramRequest
) -> code_runner_pb2.RunProgramResponse:
    return await stub.RunProgram(asked, timeout=LONGEST_WAIT_SECONDS)
