"""The local host: Triton's gRPC protocol, as far as the client needs it, in front of the same engines.

For machines on which Triton cannot run. Nothing of an entry but its configuration and arguments is used, so no code
arrives over the network.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import json_format
from prometheus_client import CollectorRegistry
from tritonclient.grpc import model_config_pb2, service_pb2_grpc
from tritonclient.grpc import service_pb2 as kserve

from services.inference import contract
from services.inference.contract import ModelEntry
from services.inference.control_key import read_or_make_key
from services.inference.engines.loading import set_torch_threads
from services.inference.engines.seams import Responder, Tensors
from services.inference.engines.traced_responder import traced_responder
from services.inference.errors import as_fleet_errors
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.launcher import startup_entries
from services.inference.local_models import LocalMetrics, LocalModels
from services.inference.settings import InferenceSettings
from services.inference.tensors import read_request, write_response
from services.runtime.errors import PermissionDeniedError
from services.runtime.server import HostedService
from services.runtime.telemetry.spans import current_tracer
from services.runtime.trace_context import TRACEPARENT_KEY

GRPC_INFERENCE_SERVICE = "inference.GRPCInferenceService"
Context = grpc.aio.ServicerContext[Any, Any]


@asynccontextmanager
async def wire_local_host(
    settings: InferenceSettings, registry: CollectorRegistry
) -> AsyncIterator[Sequence[HostedService]]:
    """Yield the inference service with the startup models loaded.

    Raises:
        FleetError: the key file or a startup model cannot be used.
    """
    key = read_or_make_key(settings.key_file)
    set_torch_threads(settings.engine_threads)
    metrics = LocalMetrics()
    registry.register(metrics)
    models = LocalModels(metrics)
    try:
        for name, entry in startup_entries(settings.startup_models).items():
            with as_fleet_errors():
                await models.load(name, entry)
        servicer = LocalInferenceServicer(models, key)
        yield [
            HostedService(
                GRPC_INFERENCE_SERVICE,
                lambda server: service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server),
            )
        ]
    finally:
        await models.close()


class LocalResponder:
    """The way back for one request: hands its engine's answers to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[Tensors | InferenceFailure | None] = asyncio.Queue()
        self._is_cancelled = False

    def send(self, tensors: Tensors) -> None:
        """Send one response; more follow."""
        self._put(tensors)

    def finish(self, tensors: Tensors | None = None) -> None:
        """End the request, with a last response or without one."""
        if tensors is not None:
            self._put(tensors)
        self._put(None)

    def fail(self, failure: InferenceFailure) -> None:
        """End the request with an error."""
        self._put(failure)

    def is_cancelled(self) -> bool:
        """Return whether the caller gave up."""
        return self._is_cancelled

    async def answers(self) -> AsyncGenerator[Tensors, None]:
        """Yield the responses.

        Raises:
            InferenceFailure: what the request ended with.
        """
        try:
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, InferenceFailure):
                    raise answer
                yield answer
        finally:
            self._is_cancelled = True

    def _put(self, answer: Tensors | InferenceFailure | None) -> None:
        # The loop is closed when the process stops while an engine still answers.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answers.put_nowait, answer)


class LocalInferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient has no types
    """Serves KServe's v2 protocol for the engines of this process.

    Args:
        models: the loaded models.
        model_control_key: what load, unload and index must bring in their metadata.
    """

    def __init__(self, models: LocalModels, model_control_key: str) -> None:
        self._models = models
        self._key = model_control_key

    async def ServerLive(self, request: Any, context: Context) -> kserve.ServerLiveResponse:
        """Answer that the process lives."""
        return kserve.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> kserve.ServerReadyResponse:
        """Answer that requests are taken."""
        return kserve.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any, context: Context) -> kserve.ModelReadyResponse:
        """Answer whether a model takes requests."""
        return kserve.ModelReadyResponse(ready=request.name in self._models.names)

    async def ModelConfig(self, request: Any, context: Context) -> kserve.ModelConfigResponse:
        """Return a model's configuration."""
        with as_fleet_errors():
            config = self._models.get(request.name).config
        message = json_format.ParseDict(dict(config), model_config_pb2.ModelConfig())
        message.name = request.name
        return kserve.ModelConfigResponse(config=message)

    async def RepositoryIndex(self, request: Any, context: Context) -> kserve.RepositoryIndexResponse:
        """List the loaded models."""
        self._check_key(context)
        index = kserve.RepositoryIndexResponse()
        for name in self._models.names:
            index.models.add(name=name, version="1", state="READY")
        return index

    async def ModelStatistics(self, request: Any, context: Context) -> kserve.ModelStatisticsResponse:
        """List the models that take requests; their figures are on the metrics endpoint."""
        statistics = kserve.ModelStatisticsResponse()
        for name in self._models.names:
            statistics.model_stats.add(name=name, version="1")
        return statistics

    async def RepositoryModelLoad(self, request: Any, context: Context) -> kserve.RepositoryModelLoadResponse:
        """Load a model from its entry."""
        self._check_key(context)
        files = {
            name.removeprefix("file:"): value.bytes_param
            for name, value in request.parameters.items()
            if name.startswith("file:")
        }
        config = request.parameters["config"].string_param if "config" in request.parameters else ""
        with as_fleet_errors():
            await self._models.load(request.model_name, ModelEntry(config, files))
        return kserve.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Context) -> kserve.RepositoryModelUnloadResponse:
        """Unload a model."""
        self._check_key(context)
        await self._models.unload(request.model_name)
        return kserve.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: Any, context: Context) -> kserve.ModelInferResponse:
        """Answer a request that has exactly one response."""
        with as_fleet_errors():
            answers = [answer async for answer in self._answers(request)]
            if len(answers) != 1:
                raise InferenceFailure(f"{len(answers)} responses where one was due", reason="ENGINE_FAILED")
        return write_response(request.model_name, request.id, answers[0])

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[kserve.ModelStreamInferResponse]:
        """Answer the requests of a stream as they come, each with any number of responses, in any order."""
        messages: asyncio.Queue[kserve.ModelStreamInferResponse | None] = asyncio.Queue()

        async def answer_all() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    async for request in request_iterator:
                        group.create_task(self._respond(request, messages))
            finally:
                messages.put_nowait(None)

        answering = asyncio.create_task(answer_all(), name="infer stream")
        try:
            while (message := await messages.get()) is not None:
                yield message
            await answering
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            answering.cancel()
            await asyncio.wait([answering])

    async def _respond(self, request: Any, messages: "asyncio.Queue[kserve.ModelStreamInferResponse | None]") -> None:
        final = kserve.ModelInferResponse(model_name=request.model_name, id=request.id)
        final.parameters["triton_final_response"].bool_param = True
        try:
            async with contextlib.aclosing(self._answers(request)) as answers:
                async for tensors in answers:
                    response = write_response(request.model_name, request.id, tensors)
                    messages.put_nowait(kserve.ModelStreamInferResponse(infer_response=response))
        except InferenceFailure as failure:
            messages.put_nowait(
                kserve.ModelStreamInferResponse(error_message=encode_failure(failure), infer_response=final)
            )
        else:
            messages.put_nowait(kserve.ModelStreamInferResponse(infer_response=final))

    async def _answers(self, request: Any) -> AsyncGenerator[Tensors, None]:
        model = self._models.get(request.model_name).model
        responder = LocalResponder()
        model.submit(_tensors(request), self._traced(responder, request))
        async with contextlib.aclosing(responder.answers()) as answers:
            async for tensors in answers:
                yield tensors

    def _traced(self, responder: Responder, request: Any) -> Responder:
        tracer = current_tracer()
        if tracer is None or TRACEPARENT_KEY not in request.parameters:
            return responder
        told = request.parameters[TRACEPARENT_KEY].string_param
        return traced_responder(responder, tracer, model=request.model_name, traceparents=told)

    def _check_key(self, context: Context) -> None:
        given = dict(context.invocation_metadata() or ()).get(contract.MODEL_CONTROL_HEADER)
        if given != self._key:
            raise PermissionDeniedError(
                "loading, unloading and listing models needs the host's model-control key",
                reason="MODEL_CONTROL_REFUSED",
            )


def _tensors(request: Any) -> Tensors:
    try:
        return read_request(request)
    except (ValueError, KeyError, struct.error) as error:
        raise InferenceFailure(f"malformed tensors: {error}", reason="TENSOR_INVALID") from error
