"""Async client of the models inside Triton, or of the local host that speaks the same protocol.

Torch-free. Every failure is a typed FleetError, every call is bounded by the caller's deadline, and a request that
its caller gives up is cancelled inside the engine.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as kserve

from services.inference import contract
from services.inference.contract import ModelEntry, Prompt
from services.inference.model_calls import PROBE_TIMEOUT_SECONDS, ModelCalls
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
from services.inference.shared_streams import sharing_streams
from services.inference.tensors import (
    Array,
    add_inputs,
    first_values,
    flag_array,
    read_response,
    text_array,
    write_request,
)
from services.runtime.errors import InvalidArgumentError

_CLASSIFYING: Final = "classifying"


class InferenceClient:
    """One connection to an inference host; make it inside the running event loop and close it there.

    Attributes:
        model_control_key: see below; empty if there is none.

    Args:
        target: gRPC address of the host (``127.0.0.1:8001``).
        model_control_key: the host's key for load, unload and list; the other calls don't need it.
    """

    def __init__(self, target: str, *, model_control_key: str | None = None) -> None:
        self.model_control_key = model_control_key or ""
        self._calls = ModelCalls(target, model_control_key=self.model_control_key)
        self._stub = self._calls.stub

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running requests are cancelled."""
        await self._calls.close()

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
        await self._calls.unary(self._stub.RepositoryModelLoad, request, name, timeout_seconds, control=True)

    async def unload_model(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a model; its process ends after the requests in flight. An unknown name is no error."""
        request = kserve.RepositoryModelUnloadRequest(model_name=name)
        await self._calls.unary(self._stub.RepositoryModelUnload, request, name, timeout_seconds, control=True)

    async def list_models(self, *, timeout_seconds: float) -> tuple[RepositoryModel, ...]:
        """List the models that the host knows, by name; READY ones take requests."""
        index = await self._calls.unary(
            self._stub.RepositoryIndex, kserve.RepositoryIndexRequest(), "", timeout_seconds, control=True
        )
        models = {each.name: RepositoryModel(each.name, each.state, each.reason) for each in index.models}
        # Triton's index leaves out models that were loaded without a folder; its statistics know all that are ready.
        statistics = await self._calls.unary(
            self._stub.ModelStatistics, kserve.ModelStatisticsRequest(), "", timeout_seconds
        )
        for each in statistics.model_stats:
            models.setdefault(each.name, RepositoryModel(each.name, "READY", ""))
        return tuple(models[name] for name in sorted(models))

    async def classifier_labels(self, model: str, *, timeout_seconds: float) -> tuple[str, ...]:
        """Return the labels of a loaded classifier, in the order of its probabilities."""
        request = kserve.ModelConfigRequest(name=model)
        reply = await self._calls.unary(self._stub.ModelConfig, request, model, timeout_seconds)
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
        return read_generated(first_values(await self._calls.answer(model, request, timeout_seconds)))

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
        async with aclosing(self._calls.responses(model, request, timeout_seconds)) as responses:
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
        answer = await self._calls.answer(model, write_request(model, "", inputs), timeout_seconds)
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
        return read_response(
            await self._calls.single_response(model, write_request(model, "", inputs), timeout_seconds)
        )

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
            answer = await self._calls.answer(model, request, timeout_seconds)
        return read_response(answer)
