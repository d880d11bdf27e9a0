"""One gRPC connection to a foreign Triton: what a model is like, and one stream for each request."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2_grpc
from tritonclient.grpc import service_pb2 as kserve

from services.generation.foreign.errors import ForeignAnswerError, ForeignUnavailableError
from services.generation.foreign.target import ForeignTarget
from services.inference.tensors import Array, read_response, write_request
from services.runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FleetError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)

PROBE_TIMEOUT_SECONDS: Final = 5.0
# Without it Triton sends errors as texts in the stream and drops their status codes.
_ERRORS_AS_STATUS: Final = (("triton_grpc_error", "true"),)
_LONGEST_MESSAGE_CHARACTERS: Final = 500
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    # The largest answer is the logits of one token for a whole vocabulary.
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_NOT_NOW: Final = ("is not ready", "has no available versions", "Server is stopping", "Model is unavailable")
_NOT_THERE: Final = ("unknown model", "is not found")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's configuration says.

    Attributes:
        inputs: Triton's data types (``TYPE_STRING``) by name.
        outputs: likewise.
        is_batched: tensors have a leading batch dimension.
        is_decoupled: a request may have any number of responses.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    is_batched: bool
    is_decoupled: bool


class ForeignConnection:
    """Asks one Triton; all its models share the connection.

    Args:
        target: ``host:port``.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection; running requests are cancelled."""
        await self._channel.close()

    async def model_shape(self, model: ForeignTarget, *, timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> ModelShape:
        """Return what a model that takes requests is like.

        Raises:
            ForeignUnavailableError: the server cannot be reached, or the model takes no requests now.
            NotFoundError: FOREIGN_MODEL_NOT_FOUND.
            FailedPreconditionError: FOREIGN_CONFIG_REFUSED.
        """
        names = {"name": model.model_name, "version": model.model_version}
        try:
            config = await self._stub.ModelConfig(kserve.ModelConfigRequest(**names), timeout=timeout_seconds)
            ready = await self._stub.ModelReady(kserve.ModelReadyRequest(**names), timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._unreachable("it did not answer") from error
            raise self._typed(error.code(), error.details() or "", model) from error
        if not ready.ready:
            raise self._not_ready(model, "it is being loaded or unloaded")
        return _shape(config.config)

    async def responses(
        self, model: ForeignTarget, inputs: Mapping[str, Array], outputs: Sequence[str], *, timeout_seconds: float
    ) -> AsyncGenerator[Mapping[str, Array], None]:
        """Yield the responses to one request; leaving the iteration cancels it.

        Each request has a stream of its own, because a cancel ends everything on a stream.

        Raises:
            FleetError: typed by the status that Triton or the model gave.
        """
        if timeout_seconds <= 0:
            raise _too_late(model)
        request = write_request(model.model_name, uuid.uuid4().hex, inputs)
        request.model_version = model.model_version
        for name in outputs:
            request.outputs.add(name=name)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        call = self._stub.ModelStreamInfer(_once(request), timeout=timeout_seconds, metadata=_ERRORS_AS_STATUS)
        is_complete = False
        try:
            async for message in call:
                if message.error_message:
                    raise self._typed(grpc.StatusCode.UNKNOWN, message.error_message, model)
                response = message.infer_response
                is_complete |= response.parameters["triton_final_response"].bool_param
                if response.outputs:
                    yield _tensors(response)
            if not is_complete:
                raise ForeignAnswerError(
                    f"{self._name(model)} broke off its answer", reason="FOREIGN_ANSWER_INCOMPLETE"
                )
        except grpc.aio.AioRpcError as error:
            raise self._typed(error.code(), error.details() or "", model) from error
        finally:
            call.cancel()

    def _typed(self, code: grpc.StatusCode, details: str, model: ForeignTarget) -> FleetError:
        """Keep the status of a failure where it tells the caller something, with reasons of our own."""
        summary = " ".join(details.split())[:_LONGEST_MESSAGE_CHARACTERS] or code.name
        metadata = {"target": self._target, "model": model.model_name}
        if any(text in details for text in _NOT_THERE) or code is grpc.StatusCode.NOT_FOUND:
            return NotFoundError(
                f"the Triton at {self._target} has no model {model.model_name!r} that can be asked: {summary}",
                reason="FOREIGN_MODEL_NOT_FOUND",
                metadata=metadata,
            )
        if any(text in details for text in _NOT_NOW):
            return self._not_ready(model, summary)
        if "protocol is restricted" in details:
            return FailedPreconditionError(
                f"the Triton at {self._target} does not show its models' configuration, which is checked before "
                "anything is asked; its deployer must not restrict the protocol model-config",
                reason="FOREIGN_CONFIG_REFUSED",
                metadata=metadata,
            )
        match code:
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
                return self._unreachable(summary)
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return _too_late(model)
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return ForeignUnavailableError(
                    f"{self._name(model)} has no room: {summary}", reason="FOREIGN_BUSY", metadata=metadata
                )
            case grpc.StatusCode.INVALID_ARGUMENT:
                return InvalidArgumentError(
                    f"{self._name(model)} refuses the request: {summary}",
                    reason="FOREIGN_REQUEST_REFUSED",
                    metadata=metadata,
                )
        return InternalError(
            f"{self._name(model)} failed: {summary}",
            reason="FOREIGN_REQUEST_FAILED",
            metadata=metadata | {"status": code.name},
        )

    def _unreachable(self, problem: str) -> ForeignUnavailableError:
        return ForeignUnavailableError(
            f"the Triton at {self._target} cannot be reached: {problem}; try again", metadata={"target": self._target}
        )

    def _not_ready(self, model: ForeignTarget, problem: str) -> ForeignUnavailableError:
        return ForeignUnavailableError(
            f"{self._name(model)} takes no requests now: {problem}",
            reason="FOREIGN_MODEL_NOT_READY",
            metadata={"target": self._target, "model": model.model_name},
        )

    def _name(self, model: ForeignTarget) -> str:
        return f"the model {model.model_name!r} of the Triton at {self._target}"


def _too_late(model: ForeignTarget) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"the foreign model {model.model_name!r} did not answer within the caller's deadline",
        reason="INFERENCE_DEADLINE_EXCEEDED",
        metadata={"model": model.model_name},
    )


def _tensors(response: Any) -> Mapping[str, Array]:
    try:
        return read_response(response)
    except (ValueError, KeyError, TypeError) as error:
        raise ForeignAnswerError(f"the foreign model's tensors cannot be read: {error!r}") from error


def _shape(config: model_config_pb2.ModelConfig) -> ModelShape:
    def types(tensors: Any) -> dict[str, str]:
        return {each.name: model_config_pb2.DataType.Name(each.data_type) for each in tensors}

    return ModelShape(
        inputs=types(config.input),
        outputs=types(config.output),
        is_batched=config.max_batch_size > 0,
        is_decoupled=config.model_transaction_policy.decoupled,
    )


async def _once(request: kserve.ModelInferRequest) -> AsyncIterator[kserve.ModelInferRequest]:
    yield request
