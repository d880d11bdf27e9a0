"""The scoring service's remote sandbox and the code runner understand each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.code_runner.messages import program_from_proto
from services.code_runner.metrics import CodeRunnerMetrics
from services.code_runner.service import hosted
from services.runtime.errors import InvalidArgumentError
from services.runtime.testing import run_in_process
from services.sandbox.contract import Ending, Program, Run, Sandbox
from services.sandbox.errors import SandboxUnavailableError
from services.scoring import program_attempts, remote_sandbox
from services.scoring.remote_sandbox import RemoteSandbox
from tests.fakes.sandbox import DESCRIPTION, FakeSandbox


@asynccontextmanager
async def remote(sandbox: Sandbox) -> AsyncIterator[RemoteSandbox]:
    async with run_in_process(hosted(sandbox, CodeRunnerMetrics(CollectorRegistry()))) as running:
        yield RemoteSandbox(running.channel, target=running.address, programs=4, metrics=CollectorRegistry())


class Told(FakeSandbox):
    """Says something of each run."""

    async def run(self, program: Program) -> Run:
        ending = (await super().run(program)).ending
        return Run(ending, f"why: {ending.value} \ufffd", "said\x00ä" * 3, 1.25)


async def test_every_ending_arrives_as_it_was() -> None:
    sandbox = Told(lambda program: Ending(program.source))
    async with remote(sandbox) as runner:
        for ending in Ending:
            run = await runner.run(Program(ending.value, "tests", 2.5))
            told = Run(ending, f"why: {ending.value} \ufffd", "said\x00ä" * 3, 1.25, sandbox_digest=DESCRIPTION.digest)
            assert run == told
    assert sandbox.programs == [Program(each.value, "tests", 2.5) for each in Ending]


async def test_the_sandbox_is_described_as_it_is() -> None:
    async with remote(FakeSandbox(lambda _: Ending.PASSED)) as runner:
        described = await runner.describe()
        assert described == DESCRIPTION
        assert described.digest == DESCRIPTION.digest


async def test_a_code_runner_without_a_sandbox_is_told_from_one_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no other.
    monkeypatch.setattr(program_attempts, "_REPLACEMENT_SECONDS", 0.0)
    sandbox = FakeSandbox(lambda _: Ending.PASSED)
    sandbox.is_available = False
    async with remote(sandbox) as runner:
        with pytest.raises(SandboxUnavailableError, match="nothing is contained here"):
            await runner.run(Program("", "", 1.0))
        with pytest.raises(SandboxUnavailableError):
            await runner.describe()


async def test_what_a_code_runner_refuses_is_not_asked_again() -> None:
    async with remote(FakeSandbox(lambda _: Ending.PASSED)) as runner:
        with pytest.raises(InvalidArgumentError) as caught:
            await runner.run(Program("", "", 601.0))
        assert caught.value.reason == "INVALID_PROGRAM"


@given(
    source=st.text(),
    tests=st.text(),
    seconds=st.floats(min_value=1e-6, max_value=600.0),
)
@settings(deadline=None)
def test_any_program_arrives_as_it_was(source: str, tests: str, seconds: float) -> None:
    program = program_from_proto(remote_sandbox._request(Program(source, tests, seconds)))
    assert (program.source, program.tests) == (source, tests)
    assert program.timeout_seconds == pytest.approx(seconds, abs=2e-9)
