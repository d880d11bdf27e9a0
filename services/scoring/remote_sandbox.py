"""A sandbox elsewhere: programs are run by code runners, over gRPC."""

import asyncio
import random
import time
from typing import Final

import grpc.aio
import structlog
from evalfleet.code_runner.v1 import code_runner_pb2, code_runner_pb2_grpc
from google.protobuf import duration_pb2
from prometheus_client import CollectorRegistry, Counter

from services.runtime.deadlines import child_timeout, remaining_seconds
from services.runtime.errors import (
    CancelledCallError,
    DeadlineExceededError,
    FailedPreconditionError,
    FleetError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    from_rpc_error,
)
from services.runtime.places import Places
from services.sandbox.contract import Ending, Program, Run, SandboxDescription, SandboxLimits
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.sandbox.own_time import LONGEST_TIMES

_ATTEMPTS: Final = 3
"""Code runners under which a program may lose its run before that is told: it may be what ends them."""
_CONNECT_SECONDS: Final = 10.0
_RESTART_SECONDS: Final = 60.0
"""Instead of those for a connection, once a program has lost its run: it may have ended all code runners there are."""
_DESCRIBE_SECONDS: Final = 5.0
_LONGEST_WAIT_SECONDS: Final = 60.0
"""For a program's turn, in one call."""
_PATIENCE_SECONDS: Final = 300.0
"""With code runners that have too much in hand, where the caller itself sets no limit."""
_FIRST_BACKOFF_SECONDS: Final = 0.2
_SHORTEST_RUN_SECONDS: Final = 1.0
"""With less time left than that, a call that was late is the caller's lateness."""
_LOST: Final = (UnavailableError, CancelledCallError, DeadlineExceededError)

_ENDINGS: Final = {code_runner_pb2.Ending.Value(f"ENDING_{each.name}"): each for each in Ending}
_log = structlog.get_logger(__name__)


class CodeRunnerLostError(FailedPreconditionError):
    """Code runners went away under a program, one after the other, and others are there: it is what ends them.

    How it ends is not known. UNAVAILABLE it is not: asked again, it would end the next ones.
    """

    default_reason = "CODE_RUNNER_LOST"


class CodeRunnerUnreachableError(UnavailableError):
    """No code runner answers."""

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
        request = code_runner_pb2.GetSandboxRequest(name="sandbox")
        try:
            told = (await self._stub.GetSandbox(request, timeout=_DESCRIBE_SECONDS)).sandbox
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
            seconds = LONGEST_TIMES * program.timeout_seconds + _LONGEST_WAIT_SECONDS
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
        lost = 0
        patience_ends = time.monotonic() + _PATIENCE_SECONDS
        while True:
            await self._connected(_RESTART_SECONDS if lost else _CONNECT_SECONDS)
            try:
                return await self._stub.RunProgram(request, timeout=timeout_seconds)
            except grpc.aio.AioRpcError as error:
                failure = _typed(error)
            if isinstance(failure, SandboxBusyError):
                # As where there is no code runner: the program has had its share of a machine that is too busy.
                raise failure
            if isinstance(failure, ResourceExhaustedError) and failure.retry_after_seconds is not None:
                wait_seconds = failure.retry_after_seconds
                if time.monotonic() + wait_seconds > patience_ends:
                    raise failure
            elif _may_end_otherwise(failure):
                lost += 1
                if lost == _ATTEMPTS:
                    raise await self._given_up(failure)
                wait_seconds = random.uniform(0.5, 1.0) * _FIRST_BACKOFF_SECONDS * 2**lost
            else:
                raise failure
            self._retries.labels(failure.code.name).inc()
            _log.info("program_given_to_another_code_runner", reason=failure.reason, wait_seconds=wait_seconds)
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
            if left is not None and left < _SHORTEST_RUN_SECONDS:
                raise DeadlineExceededError("no time is left to run a program", reason="NO_TIME_LEFT") from None
            raise self._unreachable() from None

    def _unreachable(self) -> CodeRunnerUnreachableError:
        return CodeRunnerUnreachableError(
            f"no code runner answers at {self._target}, which EVALFLEET_CODE_RUNNER_TARGET names",
            metadata={"target": self._target},
        )

    async def _given_up(self, failure: FleetError) -> FleetError:
        """Return what is said of a program that nobody has run to its end: that nobody is there, or what it did."""
        if isinstance(failure, SandboxUnavailableError):
            return failure
        try:
            await self._connected(_RESTART_SECONDS)
            await self.describe()
        except _LOST as nobody:
            if isinstance(nobody, CodeRunnerUnreachableError) or not _may_end_otherwise(nobody):
                return nobody
            return self._unreachable()
        except FleetError:
            # Somebody is there, whatever it says.
            pass
        return CodeRunnerLostError(
            f"the code runner {self._target} went away under a program {_ATTEMPTS} times, the last time with: "
            f"{failure.message}",
            metadata={"target": self._target, "attempts": str(_ATTEMPTS)},
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


def _may_end_otherwise(failure: FleetError) -> bool:
    """Whether another code runner, or the same one later, may run the program to its end."""
    if isinstance(failure, DeadlineExceededError):
        # The caller's own time is not up: the code runner hangs, or has too much to do.
        left = remaining_seconds()
        return left is None or left > _SHORTEST_RUN_SECONDS
    return isinstance(failure, (*_LOST, SandboxUnavailableError))
