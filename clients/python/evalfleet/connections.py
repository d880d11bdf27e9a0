"""Calls to one service that end in an answer or a typed error, always in bounded time."""

from __future__ import annotations  # grpc's callables are generic in its type stubs alone

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TypeVar

import grpc

from evalfleet.channels import open_channel
from evalfleet.errors import from_rpc_error

CALL_TIMEOUT_SECONDS = 30.0
LARGEST_PAGE = 1000
CALLER_KEY = "evalfleet-caller"
"""Metadata entry by which a caller names itself; the services sum up cost by it."""

VERSION_KEY = "evalfleet-version"
"""Trailing metadata of a health check: the version of the service."""


class PagedAnswer(Protocol):
    """An answer of a list method."""

    @property
    def next_page_token(self) -> str:
        """Token of the next page; empty on the last."""
        ...


RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
PagedT = TypeVar("PagedT", bound=PagedAnswer)


class Connection(AbstractContextManager["Connection"]):
    """A channel to one service, which knows the service's name and address for its error messages.

    Attributes:
        service: the service's name: ``evaluation``.
        target: its address.
        channel: what its stubs are built on.
    """

    def __init__(self, service: str, target: str, *, caller: str = "") -> None:
        self.service = service
        self._metadata = ((CALLER_KEY, caller),) if caller else ()
        self.target = target
        self.channel = open_channel(target)

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self.channel.close()

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
    ) -> ResponseT:
        """Make one call.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        try:
            return method(request, timeout=timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, service=self.service, target=self.target) from None

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
            answer = self.call(method, request_for(token))
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
    ) -> Iterator[ResponseT]:
        """Make one call and yield its answers; it is cancelled when the caller stops reading.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        call = method(request, timeout=timeout_seconds, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error, service=self.service, target=self.target) from None
        finally:
            call.cancel()

    def exchange(
        self, method: grpc.StreamStreamMultiCallable[RequestT, ResponseT], requests: Iterator[RequestT]
    ) -> Iterator[ResponseT]:
        """Send requests and yield the answers as they come; the call is cancelled when the caller stops reading.

        Raises:
            EvalFleetError: the subclass of the status that the service answered.
        """
        call = method(requests, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error, service=self.service, target=self.target) from None
        finally:
            call.cancel()
