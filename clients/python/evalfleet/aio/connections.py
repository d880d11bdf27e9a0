"""Calls to one service on an event loop, each of which ends in an answer or a typed error, in bounded time."""

from __future__ import annotations  # grpc's callables are generic in its type stubs alone

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar, cast

import grpc
import grpc.aio

from evalfleet.aio.racing import first_answer
from evalfleet.channels import open_async_channel
from evalfleet.client_settings import CALL_TIMEOUT_SECONDS, CallPlans, ClientSettings, new_request_id
from evalfleet.connections import PagedT, RequestT, ResponseT
from evalfleet.errors import CancelledCallError, EvalFleetError, from_rpc_error
from evalfleet.security import RETIREMENT_SECONDS, CertificateWatch
from evalfleet.tls_refusals import found_refusal, may_be_the_clients, refusal

StubT = TypeVar("StubT")


class _Open(NamedTuple):
    """A channel, and the process and the event loop that it belongs to."""

    process: int
    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    stubs: dict[object, object]


class _Retired:
    """A channel whose certificates were replaced: calls in progress have a while to end.

    Args:
        channel: it.
        loop: its event loop.
        forget: told when it is closed.
    """

    def __init__(
        self, channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop, forget: Callable[[_Retired], None]
    ) -> None:
        self._channel = channel
        self._forget = forget
        self._closing: asyncio.Task[None] | None = None
        self._timer = loop.call_later(RETIREMENT_SECONDS, self._close_soon)

    def _close_soon(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self.close())

    async def close(self) -> None:
        """End what still goes on over it."""
        self._timer.cancel()
        self._forget(self)
        await self._channel.close()


class AsyncExchange(Generic[ResponseT]):
    """A call that takes messages while it answers others: ``evalfleet.connections.Exchange``, to be awaited."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[RequestT, ResponseT], typed: Callable[[grpc.RpcError], EvalFleetError]
    ) -> None:
        self._call = call
        self._typed = typed
        self._is_closed = False

    async def answers(self) -> AsyncGenerator[ResponseT, None]:
        """Yield the answers as they come.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        try:
            with self._typed_errors():
                async for each in self._call:
                    yield each
        finally:
            self._call.cancel()

    async def said_at_first(self, key: str) -> str:
        """Wait for the service's first word, and return an entry of its initial metadata; empty: it has none."""
        with self._typed_errors():
            return str(dict(await self._call.initial_metadata() or ()).get(key, ""))

    def close(self) -> None:
        """Cancel the call; any task of its loop may."""
        self._is_closed = True
        self._call.cancel()

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._typed(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # To whoever reads a call that another task cancelled, gRPC says the same as if the reader were cancelled.
            if not self._is_closed or (task is not None and task.cancelling()):
                raise
            raise CancelledCallError("the call was cancelled by its caller") from None


class AsyncConnection(AbstractAsyncContextManager["AsyncConnection"]):
    """A channel to one service, opened by the first call.

    A channel belongs to its event loop: under another loop (a second ``asyncio.run``), or in a forked child, another
    one is opened.

    Attributes:
        service: the service's name: ``evaluation``.
        target: its address.
    """

    def __init__(self, service: str, target: str, settings: ClientSettings | None = None) -> None:
        self.service = service
        self.target = target
        self._settings = settings or ClientSettings()
        self._plans = CallPlans(self._settings)
        self._open: _Open | None = None
        # Kept from being collected: as garbage of a loop that may still run, or of another process, a channel may wait
        # for it.
        self._left_behind: list[_Open] = []
        self._certificates = CertificateWatch(self._settings.security)
        # With certificates that were replaced since; calls in progress go on over them.
        self._retired: set[_Retired] = set()

    def stub(self, make: Callable[[grpc.aio.Channel], StubT]) -> StubT:
        """Return the stub that ``make`` builds on the channel of the running loop.

        When certificates were replaced, the channel is opened anew.

        Raises:
            RuntimeError: no event loop is running.
            ForkedProcessError: this process was forked, and gRPC cannot work in it.
            SecurityError: certificates or token cannot be used with this target.
        """
        loop = asyncio.get_running_loop()
        opened = self._open
        if opened is None or opened.loop is not loop or opened.process != os.getpid():
            channel = open_async_channel(self.target, self._settings.security)
            left_behind = self._left_behind if opened is None else [*self._left_behind, opened]
            self._open = opened = _Open(os.getpid(), loop, channel, {})
            # Only now may those be closed whose loop has ended: the channel just opened keeps gRPC's thread going.
            self._left_behind = [
                each for each in left_behind if each.process != os.getpid() or not each.loop.is_closed()
            ]
        elif self._certificates.has_changed():
            self._retired.add(_Retired(opened.channel, loop, self._retired.discard))
            self._open = opened = opened._replace(
                channel=open_async_channel(self.target, self._settings.security), stubs={}
            )
        if make not in opened.stubs:
            opened.stubs[make] = make(opened.channel)
        return cast("StubT", opened.stubs[make])

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        opened, self._open = self._open, None
        if opened is not None and opened.process == os.getpid() and opened.loop is asyncio.get_running_loop():
            await opened.channel.close()
            for each in tuple(self._retired):
                await each.close()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        is_idempotent: bool = True,
        may_be_hedged: bool = False,
    ) -> ResponseT:
        """Make one call, and repeat it where that is in order; it is cancelled with the task that waits for it.

        Arguments and errors are those of ``Connection.call``.
        """

        async def attempt(left_seconds: float, request_id: str) -> ResponseT:
            return await self._attempt(method, request, left_seconds, request_id, may_be_hedged)

        return await self._repeated(attempt, timeout_seconds=timeout_seconds, is_idempotent=is_idempotent)

    async def send(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[RequestT, ResponseT],
        requests: Sequence[RequestT],
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        is_idempotent: bool = True,
    ) -> ResponseT:
        """Make one call that takes several messages; otherwise like ``call``."""

        async def attempt(left_seconds: float, request_id: str) -> ResponseT:
            return await method(iter(requests), timeout=left_seconds, metadata=self._plans.metadata(request_id))

        return await self._repeated(attempt, timeout_seconds=timeout_seconds, is_idempotent=is_idempotent)

    async def _repeated(
        self, attempt: Callable[[float, str], Awaitable[ResponseT]], *, timeout_seconds: float, is_idempotent: bool
    ) -> ResponseT:
        """Make one try, which is given the seconds left and the id of the call, and others where that is in order."""
        attempts = self._plans.attempts(timeout_seconds=timeout_seconds, is_idempotent=is_idempotent)
        request_id = new_request_id()
        while True:
            try:
                answer = await attempt(attempts.remaining_seconds, request_id)
            except grpc.RpcError as raised:
                error = await self._refused(raised, request_id) or self._typed(raised, request_id)
                pause = attempts.pause_after(error)
                if pause is None:
                    raise error from None
            else:
                attempts.succeeded()
                return answer
            await asyncio.sleep(pause)

    async def _attempt(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout_seconds: float,
        request_id: str,
        may_be_hedged: bool,
    ) -> ResponseT:
        metadata = self._plans.metadata(request_id)
        hedger = self._plans.hedger if may_be_hedged else None
        if hedger is None:
            return await method(request, timeout=timeout_seconds, metadata=metadata)
        ends_at = asyncio.get_running_loop().time() + timeout_seconds

        async def ask() -> ResponseT:
            left = max(0.0, ends_at - asyncio.get_running_loop().time())
            return await method(request, timeout=left, metadata=metadata)

        return await first_answer(ask, hedger, request)

    async def pages(
        self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, PagedT], request_for: Callable[[str], RequestT]
    ) -> AsyncGenerator[PagedT, None]:
        """Yield the pages of a list method; each is asked for when it is wanted.

        Args:
            method: the list method.
            request_for: makes the request for a page token.
        """
        token = ""
        while True:
            answer = await self.call(method, request_for(token), may_be_hedged=True)
            yield answer
            token = answer.next_page_token
            if not token:
                return

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[ResponseT, None]:
        """Make one call and yield its answers; it is cancelled when the generator is closed.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        request_id = new_request_id()
        call = method(request, timeout=timeout_seconds, metadata=self._plans.metadata(request_id))
        try:
            async for each in call:
                yield each
        except grpc.RpcError as error:
            raise self._typed(error, request_id) from None
        finally:
            call.cancel()

    async def exchange(
        self,
        method: grpc.aio.StreamStreamMultiCallable[RequestT, ResponseT],
        requests: AsyncIterator[RequestT],
        *,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[ResponseT, None]:
        """Send requests and yield the answers as they come; the call is cancelled when the generator is closed.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        async with aclosing(self.open_exchange(method, requests, timeout_seconds=timeout_seconds).answers()) as answers:
            async for each in answers:
                yield each

    def open_exchange(
        self,
        method: grpc.aio.StreamStreamMultiCallable[RequestT, ResponseT],
        requests: AsyncIterator[RequestT],
        *,
        timeout_seconds: float | None = None,
    ) -> AsyncExchange[ResponseT]:
        """Begin what ``exchange`` does; whoever does so closes it."""
        request_id = new_request_id()
        call = method(requests, timeout=timeout_seconds, metadata=self._plans.metadata(request_id))
        return AsyncExchange(call, lambda error: self._typed(error, request_id))

    async def _refused(self, error: grpc.RpcError, request_id: str) -> EvalFleetError | None:
        """Return why the service refuses the client's certificate, if that may be it and is."""
        if not may_be_the_clients(error):
            return None
        found = await asyncio.to_thread(found_refusal, self.service, self.target, self._settings.security)
        if found is not None:
            found.request_id = request_id
        return found

    def _typed(self, error: grpc.RpcError, request_id: str) -> EvalFleetError:
        told = refusal(error, self.service, self.target)
        if told is None:
            return from_rpc_error(error, service=self.service, target=self.target, request_id=request_id)
        told.request_id = request_id
        return told
