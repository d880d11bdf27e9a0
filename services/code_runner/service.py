"""The code runner's gRPC face: validate, translate, run, translate back."""

import asyncio
import time
from typing import Final

import grpc
from evalfleet.code_runner.v1 import code_runner_pb2, code_runner_pb2_grpc

from services.code_runner.messages import SANDBOX_NAME, program_from_proto, run_to_proto, sandbox_to_proto
from services.code_runner.metrics import CodeRunnerMetrics
from services.runtime.errors import ResourceExhaustedError, not_found
from services.runtime.interceptors.admission import Gate
from services.runtime.server import HostedService
from services.sandbox.contract import Sandbox
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.sandbox.remote_terms import LONGEST_TURN_SECONDS, PROGRAM_BEGUN

FULL_NAME: Final = code_runner_pb2.DESCRIPTOR.services_by_name["CodeRunnerService"].full_name
_RETRY_SECONDS: Final = 1.0


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
            await _turn(gate)
        began = time.monotonic()
        try:
            # If this process goes away from now on, the program may be why; what has to wait is none of it.
            await context.send_initial_metadata(PROGRAM_BEGUN)
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
        except (SandboxUnavailableError, SandboxBusyError):
            # A machine too busy to tell is looked at again, like one that cannot.
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


async def _turn(gate: Gate) -> None:
    """Wait for a place, but not so long that too little of the call's time is left to run."""
    try:
        async with asyncio.timeout(LONGEST_TURN_SECONDS):
            await gate.enter()
    except TimeoutError:
        raise ResourceExhaustedError(
            f"{gate.running} programs run here and {gate.queued} wait, and this one waited for "
            f"{LONGEST_TURN_SECONDS:.0f} s for its turn",
            reason="PROGRAM_HAD_NO_TURN",
            retry_after_seconds=_RETRY_SECONDS,
        ) from None


def _gate(programs: int, waiting: int) -> Gate:
    return Gate(f"{FULL_NAME}/RunProgram", max_running=programs, max_queued=waiting * programs)
