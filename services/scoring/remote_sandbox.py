"""A sandbox elsewhere: programs are run by code runners, over gRPC."""

import asyncio
from typing import Final

import grpc.aio
import structlog
from evalfleet.code_runner.v1 import code_runner_pb2, code_runner_pb2_grpc
from google.protobuf import duration_pb2
from prometheus_client import CollectorRegistry, Counter

from services.runtime.deadlines import child_timeout, remaining_seconds
from services.runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FleetError,
    InternalError,
    UnavailableError,
    from_rpc_error,
)
from services.runtime.places import Places
from services.sandbox.contract import Ending, Program, Run, SandboxDescription, SandboxLimits
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.sandbox.own_time import LONGEST_TIMES
from services.sandbox.remote_terms import LONGEST_TURN_SECONDS, has_begun
from services.scoring.program_attempts import LOST, SHORTEST_RUN_SECONDS, ProgramAttempts, may_be_lost

_CONNECT_SECONDS: Final = 10.0
_RESTART_SECONDS: Final = 60.0
"""Instead of those for a connection, once a program was not run: it may have ended all code runners there are."""
_DESCRIBE_SECONDS: Final = 5.0
_WHY_SECONDS: Final = 1.0
_SPARE_SECONDS: Final = 30.0
"""Of a call, beyond a program's turn and its time: its code runner may have to look first what it can contain."""

_THE_SANDBOX: Final = code_runner_pb2.GetSandboxRequest(name="sandbox")
_ENDINGS: Final = {code_runner_pb2.Ending.Value(f"ENDING_{each.name}"): each for each in Ending}
_log = structlog.get_logger(__name__)


class CodeRunnerLostError(FailedPreconditionError):
    """Code runners went away under a program, one after the other, and others are there: it is what ends them.

    How it ends is not known. UNAVAILABLE it is not: asked again, it would end the next ones.
    """

    default_reason = "CODE_RUNNER_LOST"


class CodeRunnerUnreachableError(UnavailableError):
    """No code runner answers, or none that can contain programs."""

    default_reason = "CODE_RUNNER_UNREACHABLE"


class RemoteSandbox:
    """Implements ``Sandbox`` behind a channel: a program has the ending that a code runner saw, or a typed error.

    To run a program again harms nothing, so one whose code runner goes away is given to the next.

    Args:
        channel: to the code runners; the caller closes it.
        target: what they are called in errors.
        programs: how many are with code runners at once; callers take turns.
        metrics: receives how often a program had to be given to another.
    """

    def __init__(self, channel: grpc.aio.Channel, *, target: str, programs: int, metrics: CollectorRegistry) -> None:
        self._channel = channel
        self._stub = code_runner_pb2_grpc.CodeRunnerServiceStub(channel)
        self._target = target
        self._places = Places(programs)
        self._digests: set[str] = set()
        self._retries = Counter(
            "evalfleet_scoring_code_runner_retries",
            "Programs that were given to a code runner once more, by the status code of the call before.",
            ["code"],
            registry=metrics,
        )

    async def describe(self) -> SandboxDescription:
        """Say what a code runner runs programs in; see ``Sandbox.describe``."""
        await self._connected()
        try:
            told = (await self._stub.GetSandbox(_THE_SANDBOX, timeout=_DESCRIBE_SECONDS)).sandbox
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from error
        limits = told.limits
        return SandboxDescription(
            boundary=told.boundary,
            python_version=told.python_version,
            limits=SandboxLimits(
                memory_bytes=limits.memory_bytes,
                files_bytes=limits.files_bytes,
                processes=limits.processes,
                open_files=limits.open_files,
                output_bytes=limits.output_bytes,
            ),
            measures=tuple(told.measures),
            programs=told.programs,
        )

    async def run(self, program: Program) -> Run:
        """Have a program run; see ``Sandbox.run``.

        Raises:
            SandboxUnavailableError: the code runners can contain no program.
            SandboxBusyError: the program hardly had a processor there.
            CodeRunnerLostError: they went away under it, and are there again.
            CodeRunnerUnreachableError: there are none.
            FleetError: what else they say.
        """
        async with self._places.place():
            seconds = LONGEST_TURN_SECONDS + LONGEST_TIMES * program.timeout_seconds + _SPARE_SECONDS
            response = await self._response(_request(program), seconds)
        ending = _ENDINGS.get(response.ending)
        if ending is None:
            raise InternalError(
                f"the code runner {self._target} says an ending that is not known here: {response.ending}",
                reason="CODE_RUNNER_ENDING_UNKNOWN",
            )
        await self._notice(response.sandbox_digest)
        run_seconds = response.run_time.seconds + response.run_time.nanos / 1e9
        return Run(ending, response.explanation, response.output, run_seconds, response.sandbox_digest)

    async def close(self) -> None:
        """Do nothing: programs end with their calls."""

    async def _response(
        self, request: code_runner_pb2.RunProgramRequest, timeout_seconds: float
    ) -> code_runner_pb2.RunProgramResponse:
        attempts = ProgramAttempts()
        while True:
            await self._connected(_RESTART_SECONDS if attempts.count else _CONNECT_SECONDS)
            try:
                return await self._stub.RunProgram(request, timeout=timeout_seconds)
            except grpc.aio.AioRpcError as error:
                failure, is_begun = _typed(error), has_begun(error.initial_metadata())
            wait_seconds = attempts.wait_after(failure, has_begun=is_begun)
            if wait_seconds is None:
                raise await self._told_of(failure, attempts)
            self._retries.labels(failure.code.name).inc()
            _log.info(
                "program_given_to_another_code_runner",
                reason=failure.reason,
                had_begun=is_begun,
                wait_seconds=wait_seconds,
            )
            await asyncio.sleep(wait_seconds)

    async def _connected(self, seconds: float | None = None) -> None:
        """Wait until there is a connection: what fails for want of one was never run, and needs no count."""
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        try:
            async with asyncio.timeout(child_timeout(seconds or _CONNECT_SECONDS)):
                await self._channel.channel_ready()
        except TimeoutError:
            left = remaining_seconds()
            if left is not None and left < SHORTEST_RUN_SECONDS:
                raise DeadlineExceededError("no time is left to run a program", reason="NO_TIME_LEFT") from None
            raise await self._unreachable() from None

    async def _unreachable(self) -> CodeRunnerUnreachableError:
        why = "it answers by now"
        try:
            await self._stub.GetSandbox(_THE_SANDBOX, timeout=_WHY_SECONDS)
        except grpc.aio.AioRpcError as error:
            why = error.details() or error.code().name
        except DeadlineExceededError:
            why = "no time is left to ask why"
        return CodeRunnerUnreachableError(
            f"no code runner that can contain programs answers at {self._target}, which EVALFLEET_CODE_RUNNER_TARGET "
            f"names: {why}",
            metadata={"target": self._target},
        )

    async def _told_of(self, failure: FleetError, attempts: ProgramAttempts) -> FleetError:
        """Return what is said of a program that nobody has run to its end: that nobody is there, or what it did."""
        if not may_be_lost(failure):
            return failure
        if not attempts.has_ended_code_runners:
            return CodeRunnerUnreachableError(
                f"the code runner {self._target} went away before it had begun with a program: {failure.message}",
                metadata={"target": self._target},
            )
        try:
            await self._connected(_RESTART_SECONDS)
            await self.describe()
        except LOST as nobody:
            if isinstance(nobody, CodeRunnerUnreachableError) or not may_be_lost(nobody):
                return nobody
            return await self._unreachable()
        except FleetError:
            # Somebody is there, whatever it says.
            pass
        return CodeRunnerLostError(
            f"the code runner {self._target} went away under a program {attempts.lost_count} times, the last time "
            f"with: {failure.message}",
            metadata={"target": self._target, "attempts": str(attempts.lost_count)},
        )

    async def _notice(self, digest: str) -> None:
        """Log what programs are run in when that is first seen."""
        if digest in self._digests:
            return
        self._digests.add(digest)
        if len(self._digests) > 1:
            _log.warning("code_runners_differ", target=self._target, digests=sorted(self._digests))
        try:
            described = await self.describe()
        except FleetError as error:
            _log.warning("code_runner_not_described", target=self._target, digest=digest, reason=error.reason)
            return
        _log.info(
            "code_runner_found",
            target=self._target,
            digest=described.digest,
            boundary=described.boundary,
            python=described.python_version,
            programs_at_once=described.programs,
            measures=described.measures,
        )


def _request(program: Program) -> code_runner_pb2.RunProgramRequest:
    whole = int(program.timeout_seconds)
    timeout = duration_pb2.Duration(seconds=whole, nanos=int((program.timeout_seconds - whole) * 1e9))
    return code_runner_pb2.RunProgramRequest(source=program.source, tests=program.tests, timeout=timeout)


def _typed(error: grpc.aio.AioRpcError) -> FleetError:
    failure = from_rpc_error(error)
    if failure.reason == SandboxUnavailableError.default_reason:
        return SandboxUnavailableError(failure.message, metadata=failure.metadata)
    if failure.reason == SandboxBusyError.default_reason:
        return SandboxBusyError(failure.message, retry_after_seconds=failure.retry_after_seconds)
    return failure
