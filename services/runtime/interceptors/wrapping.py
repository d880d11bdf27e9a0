"""Wrap handlers of all four kinds, coroutines and asynchronous generators alike, in the scope of ``Handling``."""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from services.runtime.error_types import InvalidArgumentError, UnimplementedError
from services.runtime.interceptors.admission import Gate
from services.runtime.interceptors.call import Context, HandledCall, MethodRules
from services.runtime.interceptors.handling import Behaviours, Handling
from services.runtime.malformed import MalformedRequestError
from services.runtime.security.guard import UNKNOWN_METHOD
from services.runtime.status import code_of

# Quoted: generic in the stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Decode: TypeAlias = Callable[[bytes], Any]
Encode: TypeAlias = Callable[[Any], bytes]
# The stub describes the handlers of the sync stack only.
Serve: TypeAlias = Callable[[Any, Any], Any]

_OK_CODES = (None, grpc.StatusCode.OK, 0)

# Codecs of streamed messages run below the handler, with no argument of ours: this tells them whose bytes they count.
_counted_call: ContextVar[HandledCall | None] = ContextVar("evalfleet_counted_call", default=None)


class WrappedMethods(grpc.GenericRpcHandler):
    """All methods of a server, wrapped. Methods are looked up here and not in a ``grpc.aio.ServerInterceptor``.

    The interceptor would cost two coroutines per call, about as much as all that the behaviours do.

    Args:
        behaviours: what is done around each call.
        rules: by full method path (``/package.Service/Method``), for methods that differ from the default rules.
    """

    def __init__(self, behaviours: Behaviours, rules: Mapping[str, MethodRules]) -> None:
        self._handling = Handling(behaviours)
        self._admission = behaviours.admission
        self._rules = rules
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, Handler] = {}
        self._unknown: Handler = grpc.stream_stream_rpc_method_handler(
            self._stream_response(_refuse_unknown_method, None, MethodRules(UNKNOWN_METHOD, limited=False))
        )

    def add(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add services; a method always has the same handler, so each is wrapped once, at its first call."""
        self._handlers.extend(handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Return the method's wrapped handler; unknown methods get one that answers with a typed UNIMPLEMENTED.

        gRPC calls this in the task that then runs the handler.
        """
        self._handling.announce(handler_call_details.invocation_metadata)
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is not None:
            return wrapped
        for generic in self._handlers:
            handler = generic.service(handler_call_details)
            if handler is not None:
                rules = self._rules.get(path) or MethodRules(path.removeprefix("/"))
                wrapped = self._wrapped[path] = self._wrap(handler, rules)
                return wrapped
        return self._unknown

    def _wrap(self, handler: Handler, rules: MethodRules) -> Handler:
        decode = rules.decode or handler.request_deserializer or _as_is
        encode = handler.response_serializer or _as_is
        # A lone message is decoded and encoded inside the scope, so that its failure is a typed error; the codecs of
        # streamed messages stay with gRPC, because handlers may also call context.read() and context.write().
        if handler.request_streaming and handler.response_streaming:
            serve = self._stream_response(cast("Serve", handler.stream_stream), None, rules)
            return grpc.stream_stream_rpc_method_handler(serve, _counting_decoder(decode), _counting_encoder(encode))
        if handler.request_streaming:
            serve = self._unary_response(cast("Serve", handler.stream_unary), None, encode, rules)
            return grpc.stream_unary_rpc_method_handler(serve, _counting_decoder(decode))
        if handler.response_streaming:
            serve = self._stream_response(cast("Serve", handler.unary_stream), decode, rules)
            encoder = _counting_encoder(encode)
            if self._identifies(rules):
                return grpc.stream_stream_rpc_method_handler(serve, None, encoder)
            return grpc.unary_stream_rpc_method_handler(serve, None, encoder)
        serve = self._unary_response(cast("Serve", handler.unary_unary), decode, encode, rules)
        if self._identifies(rules):
            return grpc.stream_unary_rpc_method_handler(serve)
        return grpc.unary_unary_rpc_method_handler(serve)

    def _identifies(self, rules: MethodRules) -> bool:
        """Whether callers of a method have to prove who they are: then their message is read afterwards.

        gRPC itself would read it first, so that strangers could fill the memory with messages that nobody looks at. For
        gRPC such a method takes a stream, of which one message is read.
        """
        guard = self._handling.guard(rules)
        return guard is not None and guard.identifies

    def _unary_response(self, serve: Serve, decode: Decode | None, encode: Encode, rules: MethodRules) -> Serve:
        handling, gate, guard = self._handling, self._gate(rules), self._handling.guard(rules)
        reads_late = decode is not None and self._identifies(rules)

        async def handle(request: Any, context: Context) -> bytes:
            call = handling.begin(rules, context)
            try:
                if guard is not None:
                    await guard.admit(call)
                handling.admitted(call)
                if reads_late:
                    request = await _only_message(context, rules)
                if gate is None or gate.try_enter():
                    call.admitted_seconds = call.started_seconds
                else:
                    await gate.enter()
                    call.admitted_seconds = time.monotonic()
                if decode is None:
                    _counted_call.set(call)
                else:
                    request = _decoded(call, decode, request)
                response = await serve(request, context)
                if (code := context.code()) not in _OK_CODES:
                    call.code = code_of(code)
                    return b""
                payload = encode(response)
                call.sent_bytes = len(payload)
                return payload
            except BaseException as error:
                await handling.fail(call, error)
                raise
            finally:
                handling.finish(call, gate)
                if decode is None:
                    _counted_call.set(None)

        return handle

    def _stream_response(self, serve: Serve, decode: Decode | None, rules: MethodRules) -> Serve:
        handling, gate, guard = self._handling, self._gate(rules), self._handling.guard(rules)
        reads_late = decode is not None and self._identifies(rules)

        async def handle(request: Any, context: Context) -> None:
            call = handling.begin(rules, context)
            try:
                if guard is not None:
                    await guard.admit(call)
                handling.admitted(call)
                if reads_late:
                    request = await _only_message(context, rules)
                if gate is None or gate.try_enter():
                    call.admitted_seconds = call.started_seconds
                else:
                    await gate.enter()
                    call.admitted_seconds = time.monotonic()
                _counted_call.set(call)
                if decode is not None:
                    request = _decoded(call, decode, request)
                await _send_all(serve(request, context), context)
                if (code := context.code()) not in _OK_CODES:
                    call.code = code_of(code)
            except BaseException as error:
                await handling.fail(call, error)
                raise
            finally:
                handling.finish(call, gate)
                _counted_call.set(None)

        return handle

    def _gate(self, rules: MethodRules) -> Gate | None:
        return self._admission.gate(rules.method) if rules.limited else None


async def _only_message(context: Context, rules: MethodRules) -> bytes:
    """Read the message of a call that has one.

    Raises:
        InvalidArgumentError: REQUEST_MISSING.
    """
    message = await context.read()
    if message is grpc.aio.EOF:
        raise InvalidArgumentError(f"{rules.method} takes one message, and none came", reason="REQUEST_MISSING")
    return cast("bytes", message)


async def _send_all(responses: Any, context: Context) -> None:
    """Send what the handler yields, or await a handler that writes by itself."""
    if not inspect.isasyncgen(responses):
        await responses
        return
    # Closing at once runs the handler's clean-up before the status is sent, not when garbage is collected.
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


async def _refuse_unknown_method(request_iterator: object, context: Context) -> None:
    raise UnimplementedError(
        "this service has no such method; list its methods with gRPC reflection", reason="METHOD_NOT_FOUND"
    )


def _as_is(message: Any) -> Any:
    return message


def _decoded(call: HandledCall, decode: Decode, raw: bytes) -> Any:
    call.received_bytes += len(raw)
    try:
        message = decode(raw)
    except (DecodeError, ValueError) as error:
        if call.watched is not None:
            call.watched.received_damaged(raw)
        raise MalformedRequestError(call.rules.method, raw) from error
    if call.watched is not None:
        call.watched.received(message)
    return message


def _counting_decoder(decode: Decode) -> Decode:
    def counting_decode(raw: bytes) -> Any:
        call = _counted_call.get()
        return decode(raw) if call is None else _decoded(call, decode, raw)

    return counting_decode


def _counting_encoder(encode: Encode) -> Encode:
    def counting_encode(message: Any) -> bytes:
        payload = encode(message)
        call = _counted_call.get()
        if call is not None:
            call.sent_bytes += len(payload)
        return payload

    return counting_encode
