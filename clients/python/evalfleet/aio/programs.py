"""Programs that nobody has read, run where they can do no harm, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from evalfleet import program_messages as messages
from evalfleet.aio.connections import AsyncConnection
from evalfleet.code_runner.v1 import code_runner_pb2_grpc
from evalfleet.program_results import ProgramRun, Sandbox


class AsyncPrograms:
    """The code runner: ``evalfleet.programs.Programs``, to be awaited."""

    def __init__(self, code_runner: AsyncConnection) -> None:
        self._connection = code_runner

    @property
    def _stub(self) -> code_runner_pb2_grpc.CodeRunnerServiceAsyncStub:
        return self._connection.stub(code_runner_pb2_grpc.CodeRunnerServiceStub)

    async def run(
        self, source: str, tests: str = "", *, timeout_seconds: float = messages.PROGRAM_TIMEOUT_SECONDS
    ) -> ProgramRun:
        """Run a program, and its tests after it; arguments and errors are those of ``Programs.run``."""
        request = messages.run_request(source, tests, timeout_seconds)
        answer = await self._connection.call(
            self._stub.RunProgram, request, timeout_seconds=timeout_seconds + messages.WAIT_SECONDS
        )
        return messages.program_run(answer)

    async def sandbox(self) -> Sandbox:
        """Read what programs are run in."""
        answer = await self._connection.call(self._stub.GetSandbox, messages.sandbox_request(), may_be_hedged=True)
        return messages.sandbox(answer.sandbox)
