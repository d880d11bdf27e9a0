"""A way to a server on loopback that may fall silent: connections stay open, and nothing comes through any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class FreezableProxy:
    """Passes bytes on, both ways, until it is told not to; see ``freezable_proxy``.

    Attributes:
        port: where it listens.
        connections: how many came so far.
    """

    def __init__(self, target_port: int | None) -> None:
        self._target_port = target_port
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.connections = 0

    def freeze(self) -> None:
        """Let nothing through on the connections that there are; those that come later work."""
        for pump in self._pumps:
            pump.cancel()

    def lead_to(self, target_port: int) -> None:
        """Let connections that come from now on lead to another server; those that there are stay."""
        self._target_port = target_port

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        self.connections += 1
        self._writers.append(writer)
        if self._target_port is None:
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers.append(there_writer)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            self._pumps.add(asyncio.create_task(_pass_on(source, sink)))

    async def close(self) -> None:
        """End all connections."""
        self.freeze()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._pumps, return_exceptions=True)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while some := await source.read(65536):
            sink.write(some)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def freezable_proxy(target_port: int | None) -> AsyncIterator[FreezableProxy]:
    """Listen on a free port, for a server at ``target_port``; without one, connections are taken and never answered."""
    proxy = FreezableProxy(target_port)
    server = await asyncio.start_server(proxy.meet, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
