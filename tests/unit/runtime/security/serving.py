"""A safety service, as far as the guard sees it, and calls of it."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.server import FleetServer, HostedService
from services.runtime.settings import ServiceSettings
from services.runtime.testing import as_bytes
from tests.patience import until

SAFETY = "evalfleet.safety.v1.SafetyService"
MODELS = "evalfleet.generation.v1.ModelService"
Metadata = Sequence[tuple[str, str]]


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for each in requests:
        yield each


def hosted(service: str = SAFETY, **methods: Any) -> HostedService:
    """A service with the given methods; by default Classify, GetGuard and StreamClassify that echo bytes."""
    handlers = methods or {
        "Classify": grpc.unary_unary_rpc_method_handler(echo),
        "GetGuard": grpc.unary_unary_rpc_method_handler(echo),
        "StreamClassify": grpc.stream_stream_rpc_method_handler(echo_all),
        "Unlisted": grpc.unary_unary_rpc_method_handler(echo),
    }
    generic = grpc.method_handlers_generic_handler(service, handlers)
    return HostedService(service, lambda server: server.add_generic_rpc_handlers((generic,)))


@asynccontextmanager
async def running(
    settings: ServiceSettings, *services: HostedService, registry: CollectorRegistry | None = None
) -> AsyncIterator[FleetServer]:
    """Run a server."""
    server = FleetServer(settings, services or (hosted(),), registry=registry or CollectorRegistry())
    try:
        server.bind()
        await server.start()
        yield server
    finally:
        await server.close()


async def call(
    channel: grpc.aio.Channel,
    method: str = "Classify",
    *,
    metadata: Metadata = (),
    service: str = SAFETY,
    message: bytes = b"",
) -> FleetError | None:
    """Make one call and return how it failed."""
    try:
        await channel.unary_unary(f"/{service}/{method}", as_bytes, as_bytes)(message, timeout=20, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def audited(path: Path) -> list[dict[str, Any]]:
    """The lines of an audit log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def audit_lines(path: Path, count: int) -> list[dict[str, Any]]:
    """Wait until an audit log has so many lines, and return them: a caller hears of its refusal a moment earlier."""
    await until(lambda: path.exists() and len(audited(path)) >= count)
    return audited(path)
