"""The gRPC server of a service process: health, reflection, metrics, every behaviour of ``interceptors``, and drain."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import grpc
import structlog
from evalfleet.server.v1 import server_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from services.runtime.health import HEALTH_SERVICE, HealthBoard, ReadinessCheck
from services.runtime.interceptors.admission import Admission
from services.runtime.interceptors.call import MethodRules
from services.runtime.interceptors.deadline import Deadlines
from services.runtime.interceptors.drain import LongCalls
from services.runtime.interceptors.handling import Behaviours
from services.runtime.interceptors.logging import CallLog
from services.runtime.interceptors.metrics import CallMetrics
from services.runtime.interceptors.registrar import WrappingServer
from services.runtime.interceptors.tracing import CallTraces
from services.runtime.interceptors.wrapping import WrappedMethods
from services.runtime.listening import MetricsEndpoint, remove_ready_file, write_ready_file
from services.runtime.security.checks import check_security
from services.runtime.security.guard import open_guard
from services.runtime.security.ports import HealthPort, bind_ports
from services.runtime.server_info import (
    SERVER_SERVICE,
    ArtifactSource,
    ServerIdentity,
    ServerServicer,
    contract_digest,
    settings_digest,
)
from services.runtime.settings import ServiceSettings
from services.runtime.stopping import StoppedEarlyError, StopRequests
from services.runtime.telemetry.spans import current_tracer
from services.runtime.work import Work, WorkMetrics, WorkSource

_GARBAGE_THRESHOLDS: Final = (5000, 5, 5)
"""Of the garbage collector: so many new objects make it look among them, every fifth time among less new ones, too."""

Hook = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HostedService:
    """One proto service that a process serves.

    Attributes:
        full_name: ``package.Service``, as in the proto.
        add_to_server: registers the servicer: ``lambda server: add_XServicer_to_server(servicer, server)``.
        readiness: answers whether the service can do its work (its dependencies are there); polled. ``None``: always.
        unbounded_methods: names of long-lived methods (``WatchRun``), to which the default deadline does not apply;
            their streams are ended with UNAVAILABLE when the server drains.
        decoders: what reads the requests of a method, where its proto's own parser would refuse too much; raises
            DecodeError or ValueError where nothing can be read.
        work: says what is in hand, where calls are not what counts: one may carry many items. ``None``: its calls.
        artifacts: says what models, guards or scorers it answers with.
    """

    full_name: str
    add_to_server: Callable[[grpc.aio.Server], None]
    readiness: ReadinessCheck | None = None
    unbounded_methods: frozenset[str] = frozenset()
    decoders: Mapping[str, Callable[[bytes], Any]] = field(default_factory=dict)
    work: WorkSource | None = None
    artifacts: ArtifactSource | None = None


class FleetServer:
    """A server for ``services``; create it inside a running event loop.

    Args:
        settings: limits, deadlines and addresses.
        services: what to serve, besides health and reflection.
        registry: receives the server's metrics.
        name: of the service, in what it tells of itself.

    Raises:
        StartupError: the settings would let strangers in, or what they say of callers, quotas or the audit log cannot
            be used.

    Attributes:
        address: ``host:port`` once bound.
        public_address: that of the port for callers without certificates; empty: there is none.
        health_address: that of the port for health checks alone; empty: there is none.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        services: Sequence[HostedService],
        *,
        registry: CollectorRegistry,
        name: str = "",
    ) -> None:
        check_security(settings, settings.host)
        self._settings = settings
        self._registry = registry
        self._log: Any = structlog.get_logger(__name__)
        tracer = current_tracer()
        self._behaviours = Behaviours(
            deadlines=Deadlines(settings.default_deadline_seconds),
            admission=Admission(settings.max_concurrent_calls, settings.max_queued_calls),
            metrics=CallMetrics(),
            log=CallLog(),
            long_calls=LongCalls(),
            guard=open_guard(settings, service=services[0].full_name if services else ""),
            traces=None if tracer is None else CallTraces(tracer),
        )
        registry.register(self._behaviours.metrics)
        registry.register(self._behaviours.admission)
        registry.register(self._behaviours.guard)
        registry.register(WorkMetrics(_work_sources(services, self._behaviours.admission)))
        self._server = WrappingServer(WrappedMethods(self._behaviours, _rules(services)), server_options(settings))
        self.health = HealthBoard(
            {service.full_name: service.readiness for service in services},
            interval_seconds=settings.readiness_interval_seconds,
        )
        self.health.add_to_server(self._server)
        for service in services:
            service.add_to_server(self._server)
        names = [*(service.full_name for service in services), SERVER_SERVICE]
        identity = ServerIdentity(name, contract_digest(names), settings_digest(settings), tuple(names), time.time())
        about = ServerServicer(identity, [each.artifacts for each in services if each.artifacts is not None])
        server_pb2_grpc.add_ServerServiceServicer_to_server(about, self._server)
        reflection.enable_server_reflection([*names, HEALTH_SERVICE, reflection.SERVICE_NAME], self._server)
        self._metrics_endpoint: MetricsEndpoint | None = None
        self._health_port: HealthPort | None = None
        self._started = False
        self.address = self.public_address = self.health_address = ""

    def bind(self) -> None:
        """Take the ports.

        Raises:
            StartupError: a port, a certificate or the ready file cannot be had; the message says what to do.
        """
        if self._settings.ready_file is not None:
            remove_ready_file(self._settings.ready_file)
        self.address, self.public_address = bind_ports(self._server, self._settings, self._registry)
        if self._settings.health_port:
            self._health_port = HealthPort(self.health, self._settings)
            self.health_address = self._health_port.address
        if self._settings.metrics_port:
            self._metrics_endpoint = MetricsEndpoint(self._settings.host, self._settings.metrics_port, self._registry)

    async def start(self) -> None:
        """Take calls, and say so in health, log and ready file."""
        await self.health.start()
        self._started = True
        await self._server.start()
        if self._health_port is not None:
            await self._health_port.start()
        if self._settings.ready_file is not None:
            write_ready_file(self._settings.ready_file, self.address)
        self._log.info("serving", address=self.address, metrics_port=self._settings.metrics_port or None)

    async def drain(self, stop_at_once: asyncio.Event) -> None:
        """Say NOT_SERVING, wait for balancers to notice, refuse new calls and let those in flight finish.

        Args:
            stop_at_once: cuts the drain short when set.
        """
        settings = self._settings
        self._log.info(
            "draining", delay_seconds=settings.drain_delay_seconds, grace_seconds=settings.drain_grace_seconds
        )
        await self.health.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_delay_seconds):
                await stop_at_once.wait()
        stopping = asyncio.create_task(self._server.stop(settings.drain_grace_seconds))
        # Once the task has begun, new calls are refused: no stream can open after the others were ended.
        await asyncio.sleep(0)
        self._behaviours.long_calls.end_all()
        cut_short = asyncio.create_task(stop_at_once.wait())
        await asyncio.wait((stopping, cut_short), return_when=asyncio.FIRST_COMPLETED)
        cut_short.cancel()
        if not stopping.done():
            await self._server.stop(None)
        await stopping

    async def close(self) -> None:
        """Stop at once whatever still runs, and free the ports."""
        await self.health.stop()
        if not self._started:
            # gRPC frees the port of a server only by stopping it, and stops it only if it was started.
            await self._server.start()
        await self._server.stop(None)
        if self._health_port is not None:
            await self._health_port.close()
        if self._metrics_endpoint is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._metrics_endpoint.close)
            self._metrics_endpoint = None
        await self._behaviours.guard.close()
        self._behaviours.log.flush()
        self._log.info("stopped", address=self.address)


async def serve(
    settings: ServiceSettings,
    services: Sequence[HostedService],
    *,
    startup: Hook | None = None,
    shutdown: Hook | None = None,
    registry: CollectorRegistry | None = None,
    stop: StopRequests | None = None,
    name: str = "",
) -> None:
    """Serve until SIGTERM, SIGINT or the end of the parent process, drain, and return.

    Args:
        settings: where to listen and how much to take on.
        services: what to serve.
        startup: runs after the ports are taken and before the first call.
        shutdown: runs after the last call, also when startup failed.
        registry: for the server's metrics, and for the service's own; a new one by default.
        stop: stop requests of a caller that already listens for signals; by default ``serve`` listens itself.
        name: of the service: ``safety``.

    Raises:
        StartupError: a port cannot be had.
    """
    if stop is None:
        stop = StopRequests()
        with stop.listening(settings.parent_pid):
            await serve(settings, services, startup=startup, shutdown=shutdown, registry=registry, stop=stop, name=name)
        return
    server = FleetServer(settings, services, registry=registry or CollectorRegistry(), name=name)
    try:
        server.bind()
        with stop.interrupting():
            if startup is not None:
                await startup()
            await server.start()
        # What was made until now lives as long as the process: the garbage collector need not look at it again.
        gc.collect()
        gc.freeze()
        # Hundreds of items in flight are thousands of objects: with the default, 700, a tenth of the time went into
        # looking for cycles among them, where there are next to none.
        gc.set_threshold(*_GARBAGE_THRESHOLDS)
        await stop.drain.wait()
        await server.drain(stop.at_once)
    except StoppedEarlyError:
        pass
    finally:
        await server.close()
        if shutdown is not None:
            await shutdown()


def _work_sources(services: Sequence[HostedService], admission: Admission) -> Sequence[WorkSource]:
    """Return what says what is in hand: the services, and the door, where calls wait before any service sees them."""
    sources = [service.work for service in services if service.work is not None]
    return [*sources, partial(_waiting_calls, admission)] if sources else [admission.work]


def _waiting_calls(admission: Admission) -> Work:
    return replace(admission.work(), running=0)


def _rules(services: Sequence[HostedService]) -> Mapping[str, MethodRules]:
    """Return the rules of all methods that differ from the default, by full path."""
    rules = {}
    for service in services:
        for method in service.unbounded_methods | service.decoders.keys():
            name = f"{service.full_name}/{method}"
            is_bounded = method not in service.unbounded_methods
            rules[f"/{name}"] = MethodRules(name, bounded=is_bounded, decode=service.decoders.get(method))
    # Probes must be answered however busy the server is.
    for name in (f"{HEALTH_SERVICE}/Check", f"{HEALTH_SERVICE}/List"):
        rules[f"/{name}"] = MethodRules(name, limited=False, quiet=True)
    rules[f"/{SERVER_SERVICE}/GetServerInfo"] = MethodRules(f"{SERVER_SERVICE}/GetServerInfo", limited=False)
    for name in (f"{HEALTH_SERVICE}/Watch", f"{reflection.SERVICE_NAME}/ServerReflectionInfo"):
        rules[f"/{name}"] = MethodRules(name, bounded=False, limited=False, quiet=True)
    return rules


# Without "recv", although gRPC's constant is called GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS.
PING_INTERVAL_OPTION: Final = "grpc.http2.min_ping_interval_without_data_ms"


def server_options(settings: ServiceSettings) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments for a server."""
    return [
        # A second server on a taken port must fail; by default it would silently share the port.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        # gRPC spreads the age by ±10 % by itself, so that clients don't all reconnect together.
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        # Of its own, beside the drain's: a drain ends all calls in time, whatever connection they came by.
        ("grpc.max_connection_age_grace_ms", int(settings.connection_grace_seconds * 1000)),
        # Finds callers whose machine is gone; and our clients' pings every 30 s are welcome.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        (PING_INTERVAL_OPTION, 10_000),
    ]
