"""A channel that hands the current call's deadline and ids on to every call made through it.

A wrapper rather than gRPC's client interceptors: those run each call in a task of its own, at several times the cost.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, cast

import grpc
from grpc import aio

from services.runtime.calls import outgoing_ids
from services.runtime.deadlines import child_timeout_or_none
from services.runtime.error_types import DeadlineExceededError

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
Metadata: TypeAlias = aio.Metadata | Sequence[tuple[str, str | bytes]]
Serializer: TypeAlias = Callable[[RequestT], bytes]
Deserializer: TypeAlias = Callable[[bytes], ResponseT]


def _carried(metadata: Metadata | None) -> Metadata | None:
    """Add the current ids; what the caller gave explicitly wins."""
    ids = outgoing_ids()
    if not ids or not metadata:
        return ids or metadata
    given = tuple(metadata)
    taken = {key for key, _ in given}
    return given + tuple(entry for entry in ids if entry[0] not in taken)


class _CarryingCallable:
    """Calls ``inner``, of any of the four kinds, with the current call's time and ids."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Callable[..., Any]) -> None:
        self._inner = inner

    def __call__(
        self, request: Any = None, timeout: float | None = None, metadata: Metadata | None = None, **options: Any
    ) -> Any:
        bounded = child_timeout_or_none(timeout)
        if bounded is not None and bounded <= 0:
            # gRPC would send it: a deadline in the past is only noticed when its timer runs.
            raise DeadlineExceededError("no time is left for a call to another service", reason="NO_TIME_LEFT")
        return self._inner(request, timeout=bounded, metadata=_carried(metadata), **options)


class CarryingChannel(aio.Channel):
    """Delegates to ``inner`` and adds deadline and ids to each call."""

    def __init__(self, inner: aio.Channel) -> None:
        self._inner = inner

    # Generated stubs pass ``_registered_method``, a hint for the sync stack that the wrapped channel does without.

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer[RequestT] | None = None,
        response_deserializer: Deserializer[ResponseT] | None = None,
        _registered_method: bool | None = False,
    ) -> "aio.UnaryUnaryMultiCallable[RequestT, ResponseT]":
        """Return a callable for a method that takes one message and returns one."""
        inner = self._inner.unary_unary(method, request_serializer, response_deserializer)
        return cast("aio.UnaryUnaryMultiCallable[RequestT, ResponseT]", _CarryingCallable(inner))

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer[RequestT] | None = None,
        response_deserializer: Deserializer[ResponseT] | None = None,
        _registered_method: bool | None = False,
    ) -> "aio.UnaryStreamMultiCallable[RequestT, ResponseT]":
        """Return a callable for a method that takes one message and returns many."""
        inner = self._inner.unary_stream(method, request_serializer, response_deserializer)
        return cast("aio.UnaryStreamMultiCallable[RequestT, ResponseT]", _CarryingCallable(inner))

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer[RequestT] | None = None,
        response_deserializer: Deserializer[ResponseT] | None = None,
        _registered_method: bool | None = False,
    ) -> "aio.StreamUnaryMultiCallable[RequestT, ResponseT]":
        """Return a callable for a method that takes many messages and returns one."""
        inner = self._inner.stream_unary(method, request_serializer, response_deserializer)
        return cast("aio.StreamUnaryMultiCallable[RequestT, ResponseT]", _CarryingCallable(inner))

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer[RequestT] | None = None,
        response_deserializer: Deserializer[ResponseT] | None = None,
        _registered_method: bool | None = False,
    ) -> "aio.StreamStreamMultiCallable[RequestT, ResponseT]":
        """Return a callable for a method that takes many messages and returns many."""
        inner = self._inner.stream_stream(method, request_serializer, response_deserializer)
        return cast("aio.StreamStreamMultiCallable[RequestT, ResponseT]", _CarryingCallable(inner))

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; calls in flight get ``grace`` seconds, none by default."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the connectivity state."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the connectivity state differs from the given one."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the channel is connected; bound the wait with ``asyncio.timeout``."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()
