"""Calls to one service that end in an answer or a typed error, always in bounded time."""

from __future__ import annotations  # grpc's callables are generic in its type stubs alone

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

import grpc

from evalfleet.channels import open_channel
from evalfleet.client_settings import CALL_TIMEOUT_SECONDS, CallPlans, ClientSettings, new_request_id
from evalfleet.errors import EvalFleetError, from_rpc_error
from evalfleet.racing import first_answer
from evalfleet.security import RETIREMENT_SECONDS, CertificateWatch
from evalfleet.tls_refusals import found_refusal, may_be_the_clients, refusal

LARGEST_PAGE = 1000

VERSION_KEY = "evalfleet-version"
"""Trailing metadata of a health check: the version of the service."""


class PagedAnswer(Protocol):
    """An answer of a list method."""

    @property
    def next_page_token(self) -> str:
        """Token of the next page; empty on the last."""
        ...


StubT = TypeVar("StubT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ToldT = TypeVar("ToldT", covariant=True)
PagedT = TypeVar("PagedT", bound=PagedAnswer)


class AnsweringCall(Protocol[ToldT]):
    """A call of the library of gRPC's, which has no public name for its type."""

    def __iter__(self) -> Iterator[ToldT]:
        """Iterate over the answers."""

    def initial_metadata(self) -> Any:
        """Wait for the pairs that the service sends first."""

    def cancel(self) -> object:
        """End it."""


class Exchange(Generic[ResponseT]):
    """A call that takes messages while it answers others.

    Args:
        call: as gRPC made it.
        typed: makes an error of the library of gRPC's.
    """

    def __init__(self, call: AnsweringCall[ResponseT], typed: Callable[[grpc.RpcError], EvalFleetError]) -> None:
        self._call = call
        self._typed = typed

    def answers(self) -> Generator[ResponseT]:
        """Yield the answers as they come.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise self._typed(error) from None
        finally:
            self._call.cancel()

    def said_at_first(self, key: str) -> str:
        """Wait for the service's first word, and return an entry of its initial metadata; empty: it has none."""
        return str(dict(self._call.initial_metadata() or ()).get(key, ""))

    def close(self) -> None:
        """Cancel the call; any thread may."""
        self._call.cancel()


class Connection(AbstractContextManager["Connection"]):
    """A channel to one service, which knows the service's name and address for its error messages.

    In a forked child it opens a channel of its own, and leaves its parent's alone.

    Attributes:
        service: the service's name: ``evaluation``.
        target: its address.
    """

    def __init__(self, service: str, target: str, settings: ClientSettings | None = None) -> None:
        self.service = service
        self.target = target
        self._settings = settings or ClientSettings()
        self._plans = CallPlans(self._settings)
        # Channels of processes that this one was forked from: closing one here would wait for threads of another
        # process, and so may collecting it as garbage.
        self._of_ancestors: list[grpc.Channel] = []
        self._process = os.getpid()
        self._certificates = CertificateWatch(self._settings.security)
        # With certificates that were replaced since; calls in progress go on over them.
        self._retired: list[tuple[float, grpc.Channel]] = []
        self._channel = open_channel(target, self._settings.security)
        self._stubs: dict[object, object] = {}

    def stub(self, make: Callable[[grpc.Channel], StubT]) -> StubT:
        """Return the stub that ``make`` builds on the channel, always the same one in a process.

        When certificates were replaced, the channel is opened anew.

        Raises:
            ForkedProcessError: this process was forked, and gRPC cannot work in it.
        """
        if self._process != os.getpid():
            channel = open_channel(self.target, self._settings.security)
            self._of_ancestors += [self._channel, *(each for _, each in self._retired)]
            self._channel, self._stubs, self._retired, self._process = channel, {}, [], os.getpid()
            self._plans = CallPlans(self._settings)
        elif self._certificates.has_changed():
            self._renew_channel()
        stubs = self._stubs
        if make not in stubs:
            stubs[make] = make(self._channel)
        return cast("StubT", stubs[make])

    def _renew_channel(self) -> None:
        now = time.monotonic()
        self._retired.append((now, self._channel))
        self._channel, self._stubs = open_channel(self.target, self._settings.security), {}
        while now - self._retired[0][0] > RETIREMENT_SECONDS:
            self._retired.pop(0)[1].close()

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        if self._process == os.getpid():
            self._channel.close()
            for _, channel in self._retired:
                channel.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        is_idempotent: bool = True,
        may_be_hedged: bool = False,
    ) -> ResponseT:
        """Make one call, and repeat it where that is in order.

        Args:
            method: of a stub.
            request: its message.
            timeout_seconds: for all tries together.
            is_idempotent: whether it may be repeated.
            may_be_hedged: whether it may be asked twice at the same time.

        Raises:
            EvalFleetError: the subclass of the status that the service answered at last.
        """

        def attempt(left_seconds: float, request_id: str) -> ResponseT:
            return self._attempt(method, request, left_seconds, request_id, may_be_hedged)

        return self._repeated(attempt, timeout_seconds=timeout_seconds, is_idempotent=is_idempotent)

    def _repeated(
        self, attempt: Callable[[float, str], ResponseT], *, timeout_seconds: float, is_idempotent: bool
    ) -> ResponseT:
        """Make one try, which is given the seconds left and the id of the call, and others where that is in order."""
        attempts = self._plans.attempts(timeout_seconds=timeout_seconds, is_idempotent=is_idempotent)
        request_id = new_request_id()
        while True:
            try:
                answer = attempt(attempts.remaining_seconds, request_id)
            except grpc.RpcError as raised:
                error = self._typed(raised, request_id)
                pause = attempts.pause_after(error)
                if pause is None:
                    raise error from None
            else:
                attempts.succeeded()
                return answer
            time.sleep(pause)

    def _attempt(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout_seconds: float,
        request_id: str,
        may_be_hedged: bool,
    ) -> ResponseT:
        metadata = self._plans.metadata(request_id)
        hedger = self._plans.hedger if may_be_hedged else None
        if hedger is None:
            return method(request, timeout=timeout_seconds, metadata=metadata)
        ends_at = time.monotonic() + timeout_seconds

        def begin() -> grpc.Future[ResponseT]:
            return method.future(request, timeout=max(0.0, ends_at - time.monotonic()), metadata=metadata)

        return first_answer(begin, hedger, request)

    def pages(
        self, method: grpc.UnaryUnaryMultiCallable[RequestT, PagedT], request_for: Callable[[str], RequestT]
    ) -> Iterator[PagedT]:
        """Yield the pages of a list method; each is asked for when it is wanted.

        Args:
            method: the list method.
            request_for: makes the request for a page token.
        """
        token = ""
        while True:
            answer = self.call(method, request_for(token), may_be_hedged=True)
            yield answer
            token = answer.next_page_token
            if not token:
                return

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_seconds: float | None = None,
    ) -> Generator[ResponseT]:
        """Make one call and yield its answers; it is cancelled when the caller stops reading.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        request_id = new_request_id()
        call = method(request, timeout=timeout_seconds, metadata=self._plans.metadata(request_id))
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._typed(error, request_id) from None
        finally:
            call.cancel()

    def send(
        self,
        method: grpc.StreamUnaryMultiCallable[RequestT, ResponseT],
        requests: Sequence[RequestT],
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        is_idempotent: bool = True,
    ) -> ResponseT:
        """Make one call that takes several messages; otherwise like ``call``."""

        def attempt(left_seconds: float, request_id: str) -> ResponseT:
            return method(iter(requests), timeout=left_seconds, metadata=self._plans.metadata(request_id))

        return self._repeated(attempt, timeout_seconds=timeout_seconds, is_idempotent=is_idempotent)

    def exchange(
        self,
        method: grpc.StreamStreamMultiCallable[RequestT, ResponseT],
        requests: Iterator[RequestT],
        *,
        timeout_seconds: float | None = None,
    ) -> Generator[ResponseT]:
        """Send requests and yield the answers as they come; the call is cancelled when the caller stops reading.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        return self.open_exchange(method, requests, timeout_seconds=timeout_seconds).answers()

    def open_exchange(
        self,
        method: grpc.StreamStreamMultiCallable[RequestT, ResponseT],
        requests: Iterator[RequestT],
        *,
        timeout_seconds: float | None = None,
    ) -> Exchange[ResponseT]:
        """Begin what ``exchange`` does; whoever does so closes it."""
        request_id = new_request_id()
        call = method(requests, timeout=timeout_seconds, metadata=self._plans.metadata(request_id))
        return Exchange(call, lambda error: self._typed(error, request_id))

    def _typed(self, raised: grpc.RpcError, request_id: str) -> EvalFleetError:
        error = refusal(raised, self.service, self.target)
        if error is None and may_be_the_clients(raised):
            error = found_refusal(self.service, self.target, self._settings.security)
        if error is None:
            return from_rpc_error(raised, service=self.service, target=self.target, request_id=request_id)
        error.request_id = request_id
        return error
