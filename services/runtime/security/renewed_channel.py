"""A channel with client certificates that are renewed: calls go over a new connection once the files have changed."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import grpc
from grpc import aio

from services.runtime.security.certificates import CertificateFiles, Certificates

RETIREMENT_SECONDS: Final = 600.0
"""How long calls on an outdated channel may go on: longer than a server lets any connection live."""

OpenChannel: TypeAlias = Callable[[Certificates], aio.Channel]


class _RenewedCallable:
    """One method, called over whichever channel is current."""

    __slots__ = ("_callable", "_channel", "_made_on", "_make")

    def __init__(self, channel: "RenewedChannel", make: Callable[[aio.Channel], Any]) -> None:
        self._channel = channel
        self._make = make
        self._made_on: aio.Channel | None = None
        self._callable: Any = None

    def __call__(self, request: Any = None, **options: Any) -> Any:
        current = self._channel.current()
        if current is not self._made_on:
            self._callable, self._made_on = self._make(current), current
        # Streams of requests have another first parameter in gRPC, and are given by position here.
        return self._callable(request, **options)


class RenewedChannel(aio.Channel):
    """Delegates to a channel that is opened anew when the certificates change; calls in progress are left alone.

    Args:
        files: what to show, and whom to trust.
        open_channel: opens a channel with some certificates.
    """

    def __init__(self, files: CertificateFiles, open_channel: OpenChannel) -> None:
        self._files = files
        self._open_channel = open_channel
        self._certificates = files.current()
        self._channel = open_channel(self._certificates)
        self._retired: dict[aio.Channel, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> aio.Channel:
        """Return the channel for a new call."""
        certificates = self._files.current()
        if certificates is not self._certificates:
            self._retire(self._channel)
            self._certificates = certificates
            self._channel = self._open_channel(certificates)
        return self._channel

    def _retire(self, channel: aio.Channel) -> None:
        loop = asyncio.get_running_loop()
        self._retired[channel] = loop.call_later(RETIREMENT_SECONDS, self._close_retired, channel)

    def _close_retired(self, channel: aio.Channel) -> None:
        del self._retired[channel]
        closing = asyncio.create_task(channel.close(), name="close a channel with outdated certificates")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _callable(self, kind: str, *arguments: Any) -> Any:
        return _RenewedCallable(self, lambda channel: getattr(channel, kind)(*arguments))

    # The wrapper around this channel gives every argument by position, and nothing else calls it.

    def unary_unary(self, *arguments: Any) -> Any:
        """Return a callable for a method that takes one message and returns one."""
        return self._callable("unary_unary", *arguments)

    def unary_stream(self, *arguments: Any) -> Any:
        """Return a callable for a method that takes one message and returns many."""
        return self._callable("unary_stream", *arguments)

    def stream_unary(self, *arguments: Any) -> Any:
        """Return a callable for a method that takes many messages and returns one."""
        return self._callable("stream_unary", *arguments)

    def stream_stream(self, *arguments: Any) -> Any:
        """Return a callable for a method that takes many messages and returns many."""
        return self._callable("stream_stream", *arguments)

    async def close(self, grace: float | None = None) -> None:
        """Close the channel, and those before it whose calls still went on."""
        retired = tuple(self._retired)
        for timer in self._retired.values():
            timer.cancel()
        self._retired.clear()
        await asyncio.gather(*(each.close(grace) for each in (self._channel, *retired)))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the connectivity state."""
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the connectivity state differs from the given one."""
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the channel is connected; bound the wait with ``asyncio.timeout``."""
        await self.current().channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()
