"""Programs that code runners run: what is asked again, and what is told instead of a score. The runner is a fake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from evalfleet.code_runner.v1 import code_runner_pb2, code_runner_pb2_grpc
from prometheus_client import CollectorRegistry

from services.evaluation.runs.fatal_errors import is_fatal
from services.evaluation.runs.retry import is_transient
from services.runtime.channels import open_channel
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import (
    CancelledCallError,
    DeadlineExceededError,
    FleetError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from services.runtime.free_ports import free_port
from services.runtime.server import HostedService
from services.runtime.testing import run_in_process
from services.sandbox.contract import Ending, Program
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.sandbox.remote_terms import PROGRAM_BEGUN
from services.scoring import program_attempts, remote_sandbox
from services.scoring.remote_sandbox import CodeRunnerLostError, CodeRunnerUnreachableError, RemoteSandbox
from services.scoring.sandbox_wiring import open_sandbox
from services.scoring.settings import ScoringSettings
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS

NAME = code_runner_pb2.DESCRIPTOR.services_by_name["CodeRunnerService"].full_name
PROGRAM = Program("pass", "", 5.0)
AWAY = UnavailableError("the machine is going down", reason="DRAINING")


class FakeCodeRunner(code_runner_pb2_grpc.CodeRunnerServiceServicer):
    """Fails as it is told to, one failure a program, and then says that all is well."""

    def __init__(self, *failures: FleetError) -> None:
        self.failures = list(failures)
        self.asked = 0
        self.running = 0
        self.most_running = 0
        self.ending = code_runner_pb2.ENDING_PASSED
        self.hang: Callable[[], Any] | None = None
        self.is_gone = False
        self.has_turns = True
        self.is_ready = True

    async def RunProgram(
        self, request: code_runner_pb2.RunProgramRequest, context: Any
    ) -> code_runner_pb2.RunProgramResponse:
        self.asked += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        if self.has_turns:
            await context.send_initial_metadata(PROGRAM_BEGUN)
        try:
            await asyncio.sleep(0.01)
            if self.hang is not None:
                await self.hang()
        finally:
            self.running -= 1
        if self.failures:
            raise self.failures.pop(0)
        return code_runner_pb2.RunProgramResponse(ending=self.ending, sandbox_digest="d")

    async def GetSandbox(
        self, request: code_runner_pb2.GetSandboxRequest, context: Any
    ) -> code_runner_pb2.GetSandboxResponse:
        if self.is_gone:
            raise AWAY
        raise UnimplementedError("this fake says nothing of itself")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_attempts, "_FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(program_attempts, "_LONGEST_BACKOFF_SECONDS", 0.01)


def hosted(fake: FakeCodeRunner) -> HostedService:
    async def is_ready() -> bool:
        return fake.is_ready

    return HostedService(
        NAME,
        lambda server: code_runner_pb2_grpc.add_CodeRunnerServiceServicer_to_server(fake, server),
        readiness=is_ready,
    )


@asynccontextmanager
async def remote(fake: FakeCodeRunner, registry: CollectorRegistry | None = None) -> AsyncIterator[RemoteSandbox]:
    async with run_in_process(hosted(fake)) as running:
        metrics = registry or CollectorRegistry()
        yield RemoteSandbox(running.channel, target=running.address, programs=2, metrics=metrics)


async def test_a_program_whose_runner_goes_away_is_run_by_the_next() -> None:
    fake, registry = FakeCodeRunner(AWAY, AWAY), CollectorRegistry()
    async with remote(fake, registry) as sandbox:
        assert (await sandbox.run(PROGRAM)).ending is Ending.PASSED
    assert fake.asked == 3
    retries = registry.get_sample_value("evalfleet_scoring_code_runner_retries_total", {"code": "UNAVAILABLE"})
    assert retries == 2


async def test_a_program_that_ends_every_runner_has_no_ending_and_is_not_asked_again() -> None:
    fake = FakeCodeRunner(*[AWAY] * 9)
    async with remote(fake) as sandbox:
        with pytest.raises(CodeRunnerLostError, match="the machine is going down") as caught:
            await sandbox.run(PROGRAM)
        # Neither an outage, which is waited out and then ends a run, nor an ending.
        assert not is_transient(caught.value)
        assert not is_fatal(caught.value)
    assert fake.asked == 3


@pytest.mark.parametrize("failure", [AWAY, CancelledCallError("reset"), DeadlineExceededError("late")])
async def test_a_program_that_waited_while_its_runners_went_away_has_ended_none(failure: FleetError) -> None:
    fake = FakeCodeRunner(*[failure] * 3)
    fake.has_turns = False
    async with remote(fake) as sandbox:
        with pytest.raises(CodeRunnerUnreachableError) as caught:
            await sandbox.run(PROGRAM)
        assert is_transient(caught.value)
        assert (await sandbox.run(PROGRAM)).ending is Ending.PASSED
    assert fake.asked == 4


async def test_a_runner_that_can_contain_nothing_is_asked_again_and_its_program_lost_nowhere() -> None:
    refusal = SandboxUnavailableError("no user namespaces")
    fake = FakeCodeRunner(AWAY, *[refusal] * 9, AWAY)
    async with remote(fake) as sandbox:
        assert (await sandbox.run(PROGRAM)).ending is Ending.PASSED
    assert fake.asked == 12


async def test_runners_none_of_which_can_contain_anything_are_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_attempts, "_REPLACEMENT_SECONDS", 0.1)
    fake = FakeCodeRunner(*[SandboxUnavailableError("no user namespaces")] * 10_000)
    async with remote(fake) as sandbox:
        with pytest.raises(SandboxUnavailableError, match="no user namespaces") as caught:
            await sandbox.run(PROGRAM)
        assert is_fatal(caught.value)


async def test_a_runner_that_cannot_contain_programs_gets_none_beside_one_that_can() -> None:
    able, unable = FakeCodeRunner(), FakeCodeRunner(*[SandboxUnavailableError("no user namespaces")] * 10_000)
    unable.is_ready = False
    async with run_in_process(hosted(able)) as one, run_in_process(hosted(unable)) as other, AsyncExitStack() as stack:
        settings = ScoringSettings(code_runner_target=f"ipv4:{other.address},{one.address}", sandbox_programs=4)
        sandbox = await open_sandbox(settings, CollectorRegistry(), stack)
        runs = await asyncio.gather(*(sandbox.run(PROGRAM) for _ in range(32)))
    assert {each.ending for each in runs} == {Ending.PASSED}
    assert (able.asked, unable.asked) == (32, 0)


async def test_where_no_runner_can_contain_programs_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_sandbox, "_CONNECT_SECONDS", 0.2)
    fake = FakeCodeRunner()
    fake.is_ready = False
    async with run_in_process(hosted(fake)) as running, AsyncExitStack() as stack:
        sandbox = await open_sandbox(ScoringSettings(code_runner_target=running.address), CollectorRegistry(), stack)
        with pytest.raises(CodeRunnerUnreachableError, match="unhealthy"):
            await sandbox.run(PROGRAM)
    assert fake.asked == 0


async def test_runners_that_are_gone_are_an_outage() -> None:
    fake = FakeCodeRunner(*[AWAY] * 9)
    fake.is_gone = True
    async with remote(fake) as sandbox:
        with pytest.raises(CodeRunnerUnreachableError) as caught:
            await sandbox.run(PROGRAM)
        assert is_transient(caught.value)
    assert fake.asked == 3


async def test_a_full_runner_is_asked_again_when_it_says() -> None:
    full = ResourceExhaustedError("full", reason="TOO_MANY_CALLS", retry_after_seconds=0.001)
    fake = FakeCodeRunner(*[full] * 9)
    async with remote(fake) as sandbox:
        assert (await sandbox.run(PROGRAM)).ending is Ending.PASSED
    assert fake.asked == 10


async def test_a_run_says_which_sandbox_it_was_in() -> None:
    async with remote(FakeCodeRunner()) as sandbox:
        assert (await sandbox.run(PROGRAM)).sandbox_digest == "d"


async def test_a_quota_that_promises_nothing_is_not_waited_for() -> None:
    fake = FakeCodeRunner(ResourceExhaustedError("too large"))
    async with remote(fake) as sandbox:
        with pytest.raises(ResourceExhaustedError):
            await sandbox.run(PROGRAM)
    assert fake.asked == 1


async def test_a_runner_too_busy_for_a_program_is_said_to_be_so() -> None:
    fake = FakeCodeRunner(SandboxBusyError("busy", retry_after_seconds=2.0))
    async with remote(fake) as sandbox:
        with pytest.raises(SandboxBusyError) as caught:
            await sandbox.run(PROGRAM)
    assert (fake.asked, caught.value.retry_after_seconds) == (1, 2.0)


async def test_a_bug_of_the_runner_is_no_ending_and_not_asked_again() -> None:
    fake = FakeCodeRunner(InternalError("a bug", reason="INTERNAL_ERROR"))
    async with remote(fake) as sandbox:
        with pytest.raises(InternalError):
            await sandbox.run(PROGRAM)
    assert fake.asked == 1


@pytest.mark.parametrize("ending", [0, 99])
async def test_an_ending_that_is_not_known_is_an_error(ending: Any) -> None:
    fake = FakeCodeRunner()
    fake.ending = ending
    async with remote(fake) as sandbox:
        with pytest.raises(InternalError) as caught:
            await sandbox.run(PROGRAM)
        assert caught.value.reason == "CODE_RUNNER_ENDING_UNKNOWN"


async def test_the_callers_time_goes_before_everything() -> None:
    fake = FakeCodeRunner()
    fake.hang = asyncio.Event().wait
    async with remote(fake) as sandbox:
        with bind_deadline(0.3), pytest.raises(DeadlineExceededError):
            await sandbox.run(PROGRAM)
    assert fake.asked <= 1


async def test_a_runner_that_hangs_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_sandbox, "LONGEST_TURN_SECONDS", 0.0)
    for seconds in GROWING_SECONDS:
        monkeypatch.setattr(remote_sandbox, "_SPARE_SECONDS", seconds)
        fake = FakeCodeRunner()
        fake.hang = asyncio.Event().wait
        async with remote(fake) as sandbox:
            with pytest.raises(FleetError) as caught:
                await sandbox.run(Program("pass", "", 0.05))
        if isinstance(caught.value, CodeRunnerLostError):
            break
    assert isinstance(caught.value, CodeRunnerLostError)
    assert fake.asked == 3


async def test_no_more_programs_are_out_than_allowed() -> None:
    fake = FakeCodeRunner()
    async with remote(fake) as sandbox:
        runs = await asyncio.gather(*(sandbox.run(PROGRAM) for _ in range(12)))
    assert {each.ending for each in runs} == {Ending.PASSED}
    assert fake.most_running <= 2


async def test_nobody_at_the_target_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_sandbox, "_CONNECT_SECONDS", 0.2)
    target = f"127.0.0.1:{free_port('127.0.0.1')}"
    async with open_channel(target) as channel:
        sandbox = RemoteSandbox(channel, target=target, programs=1, metrics=CollectorRegistry())
        with pytest.raises(CodeRunnerUnreachableError, match="EVALFLEET_CODE_RUNNER_TARGET"):
            await asyncio.wait_for(sandbox.run(PROGRAM), LONGEST_WAIT_SECONDS)
        # A caller whose time is up hears that, instead.
        with bind_deadline(0.1), pytest.raises(DeadlineExceededError):
            await sandbox.run(PROGRAM)
        await sandbox.close()
