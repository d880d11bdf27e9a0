"""Calls to the models inside Triton, or inside the local host: deadlines, typed errors, and cancels that arrive."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from services.inference import contract
from services.inference.engine_watch import EngineWatch
from services.inference.errors import ENGINE_CRASHED, from_rpc_error, from_triton_text, says_process_is_gone
from services.inference.shared_streams import LARGEST_SHARED_BYTES, SharedStreams, current_sharers
from services.inference.tensors import text_array, write_request
from services.runtime.errors import DeadlineExceededError, FleetError, InternalError, UnavailableError
from services.runtime.telemetry.spans import carried_traces, span
from services.runtime.trace_context import TRACEPARENT_KEY

PROBE_TIMEOUT_SECONDS: Final = 5.0
ENGINE_WATCH_SECONDS: Final = 5.0
"""How often a model with requests in flight is asked whether its process lives."""

# The messages of this protocol have no natural bound (a batch of long texts, all continuations of a context).
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A host that starts, or is started again, is there within seconds; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class ModelCalls:
    """Calls over one connection to an inference host; make it inside the running event loop.

    Attributes:
        stub: of the host's protocol, for calls that need none of this.

    Args:
        target: gRPC address of the host.
        model_control_key: the host's key for load, unload and list.
    """

    def __init__(self, target: str, *, model_control_key: str) -> None:
        self._target = target
        self._control_metadata = ((contract.MODEL_CONTROL_HEADER, model_control_key),)
        self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._watch = EngineWatch(self._is_engine_alive, interval_seconds=ENGINE_WATCH_SECONDS)
        self._shared = SharedStreams(self.stub.ModelStreamInfer, self._watch, target)

    async def close(self) -> None:
        """Close the connection; running requests are cancelled."""
        self._watch.close()
        self._shared.close()
        await self._channel.close()

    async def unary(
        self, method: Any, request: Any, model: str, timeout_seconds: float, *, control: bool = False
    ) -> Any:
        """Return the answer of a method that has one; ``control``: it needs the host's key."""
        _check_time_left(model, timeout_seconds)
        metadata = self._control_metadata if control else None
        try:
            return await method(request, timeout=timeout_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, model=model, target=self._target) from error

    async def answer(
        self, model: str, request: kserve.ModelInferRequest, timeout_seconds: float
    ) -> kserve.ModelInferResponse:
        """Return the only response to a request, on a stream that it shares if whoever makes it allows that."""
        with span("inference", "client", attributes={"evalfleet.model": model}):
            sharers = current_sharers()
            if sharers is None or request.ByteSize() > LARGEST_SHARED_BYTES:
                return await self.single_response(model, request, timeout_seconds)
            _check_time_left(model, timeout_seconds)
            request.parameters["triton_enable_empty_final_response"].bool_param = True
            _tell_traces(request)
            return await self._shared.ask(sharers, model, request, timeout_seconds=timeout_seconds)

    async def single_response(
        self, model: str, request: kserve.ModelInferRequest, timeout_seconds: float
    ) -> kserve.ModelInferResponse:
        """Return the only response to a request, on a stream of its own."""
        answer: kserve.ModelInferResponse | None = None
        async with aclosing(self.responses(model, request, timeout_seconds)) as responses:
            async for response in responses:
                answer = response
        if answer is None:
            raise InternalError(f"model {model!r} gave no answer", reason="INFERENCE_ANSWER_INCOMPLETE")
        return answer

    async def responses(
        self, model: str, request: kserve.ModelInferRequest, timeout_seconds: float
    ) -> AsyncGenerator[kserve.ModelInferResponse, None]:
        """Yield the responses to one request on a stream of its own, because a cancel ends a whole stream."""
        _check_time_left(model, timeout_seconds)
        request.id = uuid.uuid4().hex
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        _tell_traces(request)
        call = self.stub.ModelStreamInfer(_once(request), timeout=timeout_seconds)
        try:
            with self._watch.watching(model, call), self._typed_stream_errors(model, call):
                is_complete = False
                error: FleetError | None = None
                async for message in call:
                    if message.error_message:
                        error = error or from_triton_text(message.error_message, model=model)
                        if says_process_is_gone(message.error_message):
                            self._watch.report_death(model, call)
                    elif message.infer_response.outputs:
                        yield message.infer_response
                    is_complete |= message.infer_response.parameters["triton_final_response"].bool_param
                # Read to the end of the stream: cancelling one that is just ending makes Triton keep the request,
                # and with it a model that is unloaded later.
                if error is not None:
                    raise error
                if not is_complete:
                    raise InternalError(f"model {model!r} broke off its answer", reason="INFERENCE_ANSWER_INCOMPLETE")
        finally:
            call.cancel()

    @contextmanager
    def _typed_stream_errors(self, model: str, call: Any) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, model=model, target=self._target) from error
        except asyncio.CancelledError:
            if not self._watch.was_ended(call):
                raise
            raise UnavailableError(
                f"the process of model {model!r} has died; load the model again",
                reason=ENGINE_CRASHED,
                metadata={"model": model},
            ) from None

    async def _is_engine_alive(self, model: str) -> bool:
        """Ask for an answer to nothing, which a living engine refuses at once."""
        request = write_request(model, uuid.uuid4().hex, {contract.TEXT_INPUT: text_array("")})
        is_alive = True
        try:
            async for message in self.stub.ModelStreamInfer(_once(request), timeout=PROBE_TIMEOUT_SECONDS):
                is_alive = from_triton_text(message.error_message, model=model).reason != ENGINE_CRASHED
        except grpc.aio.AioRpcError:
            # Whether the server is there is seen by the calls in flight themselves.
            return True
        return is_alive


def _tell_traces(request: kserve.ModelInferRequest) -> None:
    """Tell the model whose traces a request belongs to: its stream may be of many, so that metadata cannot."""
    if traces := carried_traces():
        request.parameters[TRACEPARENT_KEY].string_param = " ".join(traces)


async def _once(request: kserve.ModelInferRequest) -> AsyncIterator[kserve.ModelInferRequest]:
    yield request


def _check_time_left(model: str, timeout_seconds: float) -> None:
    if timeout_seconds <= 0:
        raise DeadlineExceededError(
            f"no time left to ask model {model!r}", reason="INFERENCE_DEADLINE_EXCEEDED", metadata={"model": model}
        )
