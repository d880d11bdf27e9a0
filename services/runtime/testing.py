"""Serve in a test's own process, on a free loopback port, with every behaviour of a real service."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from prometheus_client import CollectorRegistry

from services.runtime.channels import open_channel
from services.runtime.server import FleetServer, HostedService
from services.runtime.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class InProcessServer:
    """A running server of a test: where it listens, a channel to it, and what it measures."""

    address: str
    channel: grpc.aio.Channel
    registry: CollectorRegistry
    server: FleetServer


@asynccontextmanager
async def run_in_process(
    *services: HostedService, settings: ServiceSettings | None = None, retryable_methods: Iterable[str] = ()
) -> AsyncIterator[InProcessServer]:
    """Run a server for ``services``; calls still in flight at the end are cancelled.

    Args:
        services: what to serve.
        settings: the defaults, on a free port, when not given.
        retryable_methods: see ``open_channel``.
    """
    registry = CollectorRegistry()
    server = FleetServer(settings or ServiceSettings(port=0, metrics_port=0), services, registry=registry)
    try:
        server.bind()
        await server.start()
        async with open_channel(server.address, retryable_methods=retryable_methods) as channel:
            yield InProcessServer(server.address, channel, registry, server)
    finally:
        await server.close()


@asynccontextmanager
async def serve_in_process(
    *services: HostedService, settings: ServiceSettings | None = None, retryable_methods: Iterable[str] = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """Run a server for ``services`` and yield a channel to it; see ``run_in_process`` for the address and metrics."""
    async with run_in_process(*services, settings=settings, retryable_methods=retryable_methods) as running:
        yield running.channel


def as_bytes(message: bytes) -> bytes:
    """Serialize and deserialize for calls without a proto: ``channel.unary_unary(path, as_bytes, as_bytes)``."""
    return message
