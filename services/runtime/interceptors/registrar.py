"""The server that services register with: it hands their handlers over to be wrapped."""

from collections.abc import Iterable

import grpc

from services.runtime.interceptors.wrapping import WrappedMethods


class WrappingServer(grpc.aio.Server):
    """A ``grpc.aio`` server whose handlers all run inside the behaviours.

    Args:
        methods: receives what services register.
        options: gRPC's channel arguments.
    """

    def __init__(self, methods: WrappedMethods, options: list[tuple[str, int]]) -> None:
        self._methods = methods
        self._inner = grpc.aio.server(handlers=(methods,), options=options)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Register services; generated ``add_XServicer_to_server`` functions call this."""
        self._methods.add(generic_rpc_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Bind a port without TLS and return its number."""
        return self._inner.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Bind a port with TLS and return its number."""
        return self._inner.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """Take calls."""
        await self._inner.start()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, and end those in flight after ``grace`` seconds."""
        await self._inner.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - gRPC's signature
        """Wait until the server has stopped; true when the time ran out first."""
        return await self._inner.wait_for_termination(timeout)
