"""A service without a proto: bytes in, bytes out, one method of each kind."""

from collections.abc import Callable
from typing import Any, Protocol

import grpc
import pytest

from services.runtime.server import HostedService
from services.runtime.settings import ServiceSettings

SERVICE = "test.v1.TestService"

Handler = Callable[[Any, Any], Any]


class MakeService(Protocol):
    def __call__(
        self,
        *,
        unary: Handler | None = None,
        server_stream: Handler | None = None,
        client_stream: Handler | None = None,
        bidi: Handler | None = None,
        name: str = SERVICE,
        **options: Any,
    ) -> HostedService: ...


class MakeSettings(Protocol):
    def __call__(self, **fields: Any) -> ServiceSettings: ...


@pytest.fixture
def make_service() -> MakeService:
    """Build a service whose methods Unary, ServerStream, ClientStream and Bidi are the given handlers."""

    def make(
        *,
        unary: Handler | None = None,
        server_stream: Handler | None = None,
        client_stream: Handler | None = None,
        bidi: Handler | None = None,
        name: str = SERVICE,
        **options: Any,
    ) -> HostedService:
        methods: dict[str, Any] = {}
        if unary is not None:
            methods["Unary"] = grpc.unary_unary_rpc_method_handler(unary)
        if server_stream is not None:
            methods["ServerStream"] = grpc.unary_stream_rpc_method_handler(server_stream)
        if client_stream is not None:
            methods["ClientStream"] = grpc.stream_unary_rpc_method_handler(client_stream)
        if bidi is not None:
            methods["Bidi"] = grpc.stream_stream_rpc_method_handler(bidi)
        generic = grpc.method_handlers_generic_handler(name, methods)
        return HostedService(name, lambda server: server.add_generic_rpc_handlers((generic,)), **options)

    return make


@pytest.fixture
def make_settings() -> MakeSettings:
    """Build settings for a server that a test runs in its own process: free ports, no waiting when it stops."""

    def make(**fields: Any) -> ServiceSettings:
        quick = {"port": 0, "metrics_port": 0, "drain_delay_seconds": 0.0, "drain_grace_seconds": 5.0}
        return ServiceSettings(**(quick | fields))

    return make
