"""The code runner's gRPC face: validate, translate, run, translate back."""

import time
from typing import Final

import grpc
from evalfleet.code_runner.v1 import code_runner_pb2, code_runner_pb2_grpc

from services.code_runner.messages import SANDBOX_NAME, program_from_proto, run_to_proto, sandbox_to_proto
from services.code_runner.metrics import CodeRunnerMetrics
from services.runtime.errors import not_found
from services.runtime.interceptors.admission import Gate
from services.runtime.server import HostedService
from services.sandbox.contract import Sandbox
from services.sandbox.errors import SandboxUnavailableError

FULL_NAME: Final = code_runner_pb2.DESCRIPTOR.services_by_name["CodeRunnerService"].full_name


class CodeRunnerServicer(code_runner_pb2_grpc.CodeRunnerServiceServicer):
    """Runs programs in a sandbox.

    Args:
        sandbox: contains them.
        metrics: counts them.
        waiting: how many wait for each that runs.
    """

    def __init__(self, sandbox: Sandbox, metrics: CodeRunnerMetrics, waiting: int) -> None:
        self._sandbox = sandbox
        self._metrics = metrics
        self._waiting = waiting
        self._gate: Gate | None = None

    async def RunProgram(
        self,
        request: code_runner_pb2.RunProgramRequest,
        context: grpc.aio.ServicerContext[code_runner_pb2.RunProgramRequest, code_runner_pb2.RunProgramResponse],
    ) -> code_runner_pb2.RunProgramResponse:
        """Run one program; when its call ends, it does."""
        program = program_from_proto(request)
        description = await self._sandbox.describe()
        gate = self._gate = self._gate or _gate(description.programs, self._waiting)
        if not gate.try_enter():
            await gate.enter()
        began = time.monotonic()
        try:
            run = await self._sandbox.run(program)
        finally:
            gate.leave(time.monotonic() - began)
        self._metrics.count(run)
        return run_to_proto(run, description.digest)

    async def GetSandbox(
        self,
        request: code_runner_pb2.GetSandboxRequest,
        context: grpc.aio.ServicerContext[code_runner_pb2.GetSandboxRequest, code_runner_pb2.GetSandboxResponse],
    ) -> code_runner_pb2.GetSandboxResponse:
        """Say what programs are run in."""
        if request.name != SANDBOX_NAME:
            raise not_found("sandbox", request.name, [SANDBOX_NAME])
        return code_runner_pb2.GetSandboxResponse(sandbox=sandbox_to_proto(await self._sandbox.describe()))

    async def is_ready(self) -> bool:
        """Whether programs can be contained; looked for again while they cannot."""
        try:
            await self._sandbox.describe()
            is_available = True
        except SandboxUnavailableError:
            is_available = False
        self._metrics.show(is_available=is_available)
        return is_available


def hosted(sandbox: Sandbox, metrics: CodeRunnerMetrics, *, waiting: int = 2) -> HostedService:
    """Return what a server needs to serve a sandbox; without one it says NOT_SERVING, and refuses what it is asked.

    Args:
        sandbox: contains programs.
        metrics: counts them.
        waiting: how many wait for each that runs; who sends more is told when to come back.
    """
    servicer = CodeRunnerServicer(sandbox, metrics, waiting)
    return HostedService(
        FULL_NAME,
        lambda server: code_runner_pb2_grpc.add_CodeRunnerServiceServicer_to_server(servicer, server),
        readiness=servicer.is_ready,
    )


def _gate(programs: int, waiting: int) -> Gate:
    return Gate(f"{FULL_NAME}/RunProgram", max_running=programs, max_queued=waiting * programs)
