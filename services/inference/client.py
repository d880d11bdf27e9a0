"""Async client of the models inside Triton, or of the local host that speaks the same protocol.

Torch-free. Every failure is a typed FleetError, every call is bounded by the caller's deadline, and a request that
its caller gives up is cancelled inside the engine.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from services.inference import contract
from services.inference.contract import ModelEntry, Prompt
from services.inference.engine_watch import EngineWatch
from services.inference.errors import ENGINE_CRASHED, from_rpc_error, from_triton_text
from services.inference.request_inputs import generation_request, prompt_inputs
from services.inference.results import (
    Classified,
    Embedded,
    Generated,
    GeneratedChunk,
    RepositoryModel,
    ScoredContinuations,
    read_chunk,
    read_classified,
    read_embedded,
    read_generated,
    read_scored,
)
from services.inference.sampling import SamplingParameters
from services.inference.shared_streams import LARGEST_SHARED_BYTES, SharedStreams, current_sharers, sharing_streams
from services.inference.tensors import (
    Array,
    add_inputs,
    first_values,
    flag_array,
    read_response,
    text_array,
    write_request,
)
from services.runtime.errors import (
    DeadlineExceededError,
    FleetError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)

PROBE_TIMEOUT_SECONDS: Final = 5.0
_CLASSIFYING: Final = "classifying"
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


class InferenceClient:
    """One connection to an inference host; make it inside the running event loop and close it there.

    Attributes:
        model_control_key: see below; empty if there is none.

    Args:
        target: gRPC address of the host (``127.0.0.1:8001``).
        model_control_key: the host's key for load, unload and list; the other calls don't need it.
    """

    def __init__(self, target: str, *, model_control_key: str | None = None) -> None:
        self._target = target
        self.model_control_key = model_control_key or ""
        self._control_metadata = ((contract.MODEL_CONTROL_HEADER, model_control_key or ""),)
        self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._watch = EngineWatch(self._is_engine_alive, interval_seconds=ENGINE_WATCH_SECONDS)
        self._shared = SharedStreams(self._stub.ModelStreamInfer, self._watch, target)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running requests are cancelled."""
        self._watch.close()
        self._shared.close()
        await self._channel.close()

    async def is_ready(self, *, timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> bool:
        """Return whether the host answers and takes requests; never raises."""
        try:
            reply = await self._stub.ServerReady(kserve.ServerReadyRequest(), timeout=timeout_seconds)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.ready)

    async def is_model_ready(self, model: str, *, timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> bool:
        """Return whether the model takes requests; false if it is unknown or the host is down."""
        try:
            reply = await self._stub.ModelReady(kserve.ModelReadyRequest(name=model), timeout=timeout_seconds)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.ready)

    async def load_model(self, name: str, entry: ModelEntry, *, timeout_seconds: float) -> None:
        """Load a model and return when it is ready.

        A name that is already loaded keeps its first model: unload it before giving the name to another.
        """
        request = kserve.RepositoryModelLoadRequest(model_name=name)
        request.parameters["config"].string_param = entry.config
        for path, content in entry.files.items():
            request.parameters[f"file:{path}"].bytes_param = content
        await self._unary(self._stub.RepositoryModelLoad, request, name, timeout_seconds, control=True)

    async def unload_model(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a model; its process ends after the requests in flight. An unknown name is no error."""
        request = kserve.RepositoryModelUnloadRequest(model_name=name)
        await self._unary(self._stub.RepositoryModelUnload, request, name, timeout_seconds, control=True)

    async def list_models(self, *, timeout_seconds: float) -> tuple[RepositoryModel, ...]:
        """List the models that the host knows, by name; READY ones take requests."""
        index = await self._unary(
            self._stub.RepositoryIndex, kserve.RepositoryIndexRequest(), "", timeout_seconds, control=True
        )
        models = {each.name: RepositoryModel(each.name, each.state, each.reason) for each in index.models}
        # Triton's index leaves out models that were loaded without a folder; its statistics know all that are ready.
        statistics = await self._unary(self._stub.ModelStatistics, kserve.ModelStatisticsRequest(), "", timeout_seconds)
        for each in statistics.model_stats:
            models.setdefault(each.name, RepositoryModel(each.name, "READY", ""))
        return tuple(models[name] for name in sorted(models))

    async def classifier_labels(self, model: str, *, timeout_seconds: float) -> tuple[str, ...]:
        """Return the labels of a loaded classifier, in the order of its probabilities."""
        request = kserve.ModelConfigRequest(name=model)
        reply = await self._unary(self._stub.ModelConfig, request, model, timeout_seconds)
        labels = reply.config.parameters[contract.LABELS_PARAMETER].string_value
        if not labels:
            raise InvalidArgumentError(f"model {model!r} is not a classifier", reason="MODEL_LACKS_FEATURE")
        return tuple(json.loads(labels))

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: SamplingParameters,
        *,
        timeout_seconds: float,
        checkpoint: str | None = None,
        truncate_input: bool = False,
        want_cumulative_logprob: bool = False,
    ) -> Generated:
        """Generate one answer.

        Args:
            model: name of a loaded causal language model.
            prompt: a text, or the messages of a conversation.
            sampling: how to choose tokens and when to stop.
            timeout_seconds: what is left of the caller's deadline.
            checkpoint: which checkpoint of a checkpoint host answers; None for other models.
            truncate_input: drop the oldest prompt tokens if prompt and max_tokens exceed the context;
                without it a prompt that leaves no room fails with PROMPT_TOO_LONG.
            want_cumulative_logprob: also return the answer's log-probability.
        """
        request = generation_request(
            model, prompt, sampling, checkpoint=checkpoint, stream=False, truncate_input=truncate_input
        )
        if want_cumulative_logprob:
            add_inputs(request, {contract.RETURN_CUMULATIVE_LOGPROB: flag_array(True)})
        return read_generated(first_values(await self._answer(model, request, timeout_seconds)))

    async def generate_stream(
        self,
        model: str,
        prompt: Prompt,
        sampling: SamplingParameters,
        *,
        timeout_seconds: float,
        checkpoint: str | None = None,
        truncate_input: bool = False,
    ) -> AsyncGenerator[GeneratedChunk, None]:
        """Generate one answer in pieces; leaving the iteration cancels the request (use ``aclosing``)."""
        request = generation_request(
            model, prompt, sampling, checkpoint=checkpoint, stream=True, truncate_input=truncate_input
        )
        async with aclosing(self._responses(model, request, timeout_seconds)) as responses:
            async for response in responses:
                yield read_chunk(first_values(response))

    async def score_continuations(
        self,
        model: str,
        context: Prompt,
        continuations: Sequence[str],
        *,
        timeout_seconds: float,
        checkpoint: str | None = None,
        truncate_input: bool = False,
    ) -> ScoredContinuations:
        """Score every continuation of one context; the context is computed once.

        The definition of a log-likelihood is lm-evaluation-harness's (docs/inference.md).

        Args:
            model: name of a loaded causal language model.
            context: a text, which may be empty, or the messages of a conversation.
            continuations: texts to score behind the context; none empty.
            timeout_seconds: what is left of the caller's deadline.
            checkpoint: which checkpoint of a checkpoint host answers; None for other models.
            truncate_input: drop the oldest context tokens if context and continuation exceed the window.
        """
        if not continuations or not all(continuations):
            raise InvalidArgumentError("continuations must be non-empty texts", reason="CONTINUATION_EMPTY")
        inputs = {**prompt_inputs(context, checkpoint), contract.CONTINUATIONS: text_array(*continuations)}
        if truncate_input:
            inputs[contract.TRUNCATE_INPUT] = flag_array(True)
        answer = await self._answer(model, write_request(model, "", inputs), timeout_seconds)
        return read_scored(read_response(answer), len(continuations))

    async def classify(
        self, model: str, texts: Sequence[str], *, timeout_seconds: float, max_windows: int = 1
    ) -> Classified:
        """Classify texts; the engine computes them together with others that wait.

        Args:
            model: name of a loaded classifier.
            texts: at least one.
            timeout_seconds: what is left of the caller's deadline.
            max_windows: most windows that a text is divided into which is longer than the model reads.
        """
        return read_classified(await self._read_texts(model, texts, timeout_seconds, max_windows), len(texts))

    async def embed(
        self, model: str, texts: Sequence[str], *, timeout_seconds: float, max_windows: int = 1
    ) -> Embedded:
        """Return the embeddings of texts; arguments as those of ``classify``, of a loaded sentence encoder."""
        return read_embedded(await self._read_texts(model, texts, timeout_seconds, max_windows), len(texts))

    async def ask(self, model: str, inputs: Mapping[str, Array], *, timeout_seconds: float) -> Mapping[str, Array]:
        """Return the output tensors of the only response to any other request to a decoupled model."""
        return read_response(await self._single_response(model, write_request(model, "", inputs), timeout_seconds))

    async def _read_texts(
        self, model: str, texts: Sequence[str], timeout_seconds: float, max_windows: int
    ) -> Mapping[str, Array]:
        if not texts:
            raise InvalidArgumentError("texts must not be empty", reason="TEXTS_EMPTY")
        inputs = {contract.TEXT: text_array(*texts)}
        if max_windows != 1:
            inputs[contract.MAX_WINDOWS] = np.array([max_windows], dtype=np.uint32)
        request = write_request(model, "", inputs)
        # Computed soon in any case: what a caller gives up costs less than a stream of its own for every call.
        with sharing_streams(_CLASSIFYING):
            answer = await self._answer(model, request, timeout_seconds)
        return read_response(answer)

    async def _unary(
        self, method: Any, request: Any, model: str, timeout_seconds: float, *, control: bool = False
    ) -> Any:
        _check_time_left(model, timeout_seconds)
        metadata = self._control_metadata if control else None
        try:
            return await method(request, timeout=timeout_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, model=model, target=self._target) from error

    async def _answer(
        self, model: str, request: kserve.ModelInferRequest, timeout_seconds: float
    ) -> kserve.ModelInferResponse:
        """Return the only response to a request, on a stream that it shares if whoever makes it allows that."""
        sharers = current_sharers()
        if sharers is None or request.ByteSize() > LARGEST_SHARED_BYTES:
            return await self._single_response(model, request, timeout_seconds)
        _check_time_left(model, timeout_seconds)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        return await self._shared.ask(sharers, model, request, timeout_seconds=timeout_seconds)

    async def _single_response(
        self, model: str, request: kserve.ModelInferRequest, timeout_seconds: float
    ) -> kserve.ModelInferResponse:
        answer: kserve.ModelInferResponse | None = None
        async with aclosing(self._responses(model, request, timeout_seconds)) as responses:
            async for response in responses:
                answer = response
        if answer is None:
            raise InternalError(f"model {model!r} gave no answer", reason="INFERENCE_ANSWER_INCOMPLETE")
        return answer

    async def _responses(
        self, model: str, request: kserve.ModelInferRequest, timeout_seconds: float
    ) -> AsyncGenerator[kserve.ModelInferResponse, None]:
        """Yield the responses to one request on a stream of its own, because a cancel ends a whole stream."""
        _check_time_left(model, timeout_seconds)
        request.id = uuid.uuid4().hex
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        call = self._stub.ModelStreamInfer(_once(request), timeout=timeout_seconds)
        try:
            with self._watch.watching(model, call), self._typed_stream_errors(model, call):
                is_complete = False
                error: FleetError | None = None
                async for message in call:
                    if message.error_message:
                        error = error or from_triton_text(message.error_message, model=model)
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
            async for message in self._stub.ModelStreamInfer(_once(request), timeout=PROBE_TIMEOUT_SECONDS):
                is_alive = from_triton_text(message.error_message, model=model).reason != ENGINE_CRASHED
        except grpc.aio.AioRpcError:
            # Whether the server is there is seen by the calls in flight themselves.
            return True
        return is_alive


async def _once(request: kserve.ModelInferRequest) -> AsyncIterator[kserve.ModelInferRequest]:
    yield request


def _check_time_left(model: str, timeout_seconds: float) -> None:
    if timeout_seconds <= 0:
        raise DeadlineExceededError(
            f"no time left to ask model {model!r}", reason="INFERENCE_DEADLINE_EXCEEDED", metadata={"model": model}
        )
