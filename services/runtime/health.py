"""Health per service (grpc.health.v1): readiness checks are polled, and everything is NOT_SERVING while draining."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import structlog
from evalfleet.connections import VERSION_KEY
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from services.runtime.versions import services_version

HEALTH_SERVICE = "grpc.health.v1.Health"
OVERALL = ""
"""The health entry of the server as a whole: SERVING when all its services are."""
LIVENESS = "liveness"
"""The health entry of the process alone, whatever it depends on: for probes that start it again."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_UNREADY_SECONDS = 0.5

ReadinessCheck = Callable[[], Awaitable[bool]]


class _VersionedHealth(health_aio.HealthServicer):  # type: ignore[misc]  # the package ships no types
    """Also tells the version of this service, so that nobody has to guess what is running."""

    def __init__(self) -> None:
        super().__init__()
        self._version = services_version()
        # One for each stream: the package's own Watch takes the condition of all away with the first that leaves, and
        # holds it while a slow reader's message is written.
        self._changes: set[asyncio.Event] = set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Answer one check."""
        context.set_trailing_metadata(((VERSION_KEY, self._version),))
        return await super().Check(request, context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Send a service's status now, and again whenever it has changed."""
        changed = asyncio.Event()
        self._changes.add(changed)
        told = None
        try:
            while True:
                changed.clear()
                status = self._server_status.get(request.service, _SERVICE_UNKNOWN)
                if status != told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    told = status
                await changed.wait()
        finally:
            self._changes.discard(changed)

    async def _set(self, service: str, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        self._server_status[service] = status
        for changed in self._changes:
            changed.set()


class HealthBoard:
    """Holds what the health service answers.

    Args:
        checks: by full service name; a service without a check is always ready.
        interval_seconds: time between two rounds of checks, and the bound of each check; while a service is not ready,
            rounds come twice a second, since its callers wait.
    """

    def __init__(self, checks: Mapping[str, ReadinessCheck | None], *, interval_seconds: float) -> None:
        self._servicer = _VersionedHealth()
        self._checks = dict(checks)
        self._interval_seconds = interval_seconds
        self._ready: dict[str, bool] = {}
        self._problems: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._poll: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger(__name__)

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """Register the health service."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def answer(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Answer one check, without telling the version."""
        return await health_aio.HealthServicer.Check(self._servicer, request, context)

    async def start(self) -> None:
        """Check every service once, then keep checking in the background."""
        await self._servicer.set(LIVENESS, _SERVING)
        await self._round()
        if any(self._checks.values()):
            self._poll = asyncio.create_task(self._keep_checking(), name="readiness")

    async def drain(self) -> None:
        """Answer NOT_SERVING for everything from now on, and stop checking."""
        await self.stop()
        await self._servicer.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Stop checking."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait([self._poll])
            self._poll = None
        for asking in self._asking.values():
            _cancel_once(asking)
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=self._bound_seconds)

    async def _keep_checking(self) -> None:
        while True:
            is_ready = all(self._ready.values())
            await asyncio.sleep(self._interval_seconds if is_ready else min(self._interval_seconds, _UNREADY_SECONDS))
            await self._round()

    async def _round(self) -> None:
        results = await asyncio.gather(*(self._check(service) for service in self._checks))
        for service, ready in zip(self._checks, results, strict=True):
            await self._publish(service, ready)
        await self._servicer.set(OVERALL, _SERVING if all(results) else _NOT_SERVING)

    async def _publish(self, service: str, ready: bool) -> None:
        if self._ready.get(service) is ready:
            return
        self._ready[service] = ready
        await self._servicer.set(service, _SERVING if ready else _NOT_SERVING)
        self._log.info("health_changed", service=service, serving=ready)

    async def _check(self, service: str) -> bool:
        check = self._checks[service]
        if check is None:
            return True
        try:
            is_ready = await self._answer_in_time(service, check)
            self._problems.pop(service, None)
            return is_ready
        except Exception as error:  # noqa: BLE001 - whatever a dependency throws, it is not ready, and polling goes on
            problem = str(error) or type(error).__name__
            if self._problems.get(service) != problem:
                self._log.warning("readiness_check_failed", service=service, error=problem)
            self._problems[service] = problem
            return False

    async def _answer_in_time(self, service: str, check: ReadinessCheck) -> bool:
        """Ask, or wait for the answer of an earlier round, if its question took no notice of its time's end.

        Raises:
            TimeoutError: there is none yet.
        """
        asking = self._asking.get(service)
        if asking is None or asking.cancelled():
            asking = self._asking[service] = asyncio.create_task(_ask(check), name=f"readiness of {service}")
        done, _ = await asyncio.wait({asking}, timeout=self._bound_seconds)
        if not done:
            _cancel_once(asking)
            raise TimeoutError
        del self._asking[service]
        if asking.cancelled():
            raise TimeoutError
        return asking.result()

    @property
    def _bound_seconds(self) -> float:
        return max(self._interval_seconds, 1.0)


async def _ask(check: ReadinessCheck) -> bool:
    return await check()


def _cancel_once(asking: "asyncio.Task[bool]") -> None:
    """Cancel a check; one that finishes something first, such as giving a connection back, is left to it."""
    if not asking.cancelling():
        asking.cancel()
