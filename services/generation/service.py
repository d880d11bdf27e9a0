"""The servicers of GenerationService and ModelService: check, translate, ask the domain, translate back."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

from services.generation import model_messages, stream_messages, translation
from services.generation.answering import Answering, BatchOutcome
from services.generation.cost.caller_ledger import CallerLedger
from services.generation.lifecycle import ModelLifecycle
from services.generation.registration import ModelRegistrar
from services.generation.requests import GenerationRequest
from services.runtime.batch_reading import SalvagedBatch, batch_reader
from services.runtime.errors import InvalidArgumentError, to_status
from services.runtime.item_reading import ITEM_GROUPS_METADATA, ItemReader
from services.runtime.item_streams import ItemStream, StreamLimits
from services.runtime.pacing import Pacer
from services.runtime.pagination import paginate

GENERATION_SERVICE = "evalfleet.generation.v1.GenerationService"
MODEL_SERVICE = "evalfleet.generation.v1.ModelService"
DECODERS = {
    "BatchGenerate": batch_reader(
        f"{GENERATION_SERVICE}/BatchGenerate", generation_pb2.BatchGenerateRequest, generation_pb2.GenerateRequest
    )
}
"""Methods whose requests are read in parts: see ``batch_reading``."""
UNBOUNDED_METHODS = frozenset({"StreamGenerate", "StreamScoreContinuations"})
"""Streams that may last as long as their caller likes; each of their items has a limit of its own."""
_PACE_SECONDS = 0.02
_LARGEST_GROUP = 64
"""Outcomes of one message of a stream."""


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Generates and scores."""

    def __init__(self, generator: Answering, caller_ledger: CallerLedger, stream_limits: StreamLimits) -> None:
        self._generator = generator
        self._caller_ledger = caller_ledger
        self._stream_limits = stream_limits

    async def Generate(
        self,
        request: generation_pb2.GenerateRequest,
        context: grpc.aio.ServicerContext[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse],
    ) -> generation_pb2.GenerateResponse:
        """Generate all samples of one request."""
        result = await self._generator.generate(translation.generation_request(request))
        return translation.generation_response(result)

    async def BatchGenerate(
        self,
        request: generation_pb2.BatchGenerateRequest | SalvagedBatch[generation_pb2.GenerateRequest],
        context: grpc.aio.ServicerContext[generation_pb2.BatchGenerateRequest, generation_pb2.BatchGenerateResponse],
    ) -> generation_pb2.BatchGenerateResponse:
        """Generate for many requests, each with an outcome of its own."""
        translation.check_batch_size(len(request.requests))
        outcomes = await self._generator.generate_batch([_checked(each) for each in request.requests])
        return generation_pb2.BatchGenerateResponse(results=[_result(outcome) for outcome in outcomes])

    async def StreamGenerate(
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[generation_pb2.StreamGenerateResponse, None]:
        """Generate for every item of a stream, each with an outcome of its own."""
        generator = self._generator.for_one_call()
        await context.send_initial_metadata(ITEM_GROUPS_METADATA)
        reader = ItemReader(context, translation.generation_request, generation_pb2.StreamGenerateItem)
        async with aclosing(reader.items()) as items:
            stream = ItemStream(items, generator.generate, self._stream_limits, name="StreamGenerate/item")
            pacer = Pacer(_PACE_SECONDS)
            delay = partial(_delay_seconds, reader, pacer)
            async with aclosing(stream.groups(largest=_LARGEST_GROUP, delay_seconds=delay)) as groups:
                async for group in groups:
                    pacer.sent(len(group))
                    for message in stream_messages.generation_outcomes(group, together=reader.has_groups):
                        yield message

    async def GenerateTokens(
        self, request: generation_pb2.GenerateTokensRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[generation_pb2.GenerateTokensResponse, None]:
        """Generate one answer and send its text as it comes."""
        wanted = stream_messages.tokens_request(request.request)
        async with aclosing(self._generator.generate_pieces(wanted)) as pieces:
            async for piece in pieces:
                yield stream_messages.tokens_response(piece)

    async def StreamScoreContinuations(
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[generation_pb2.StreamScoreContinuationsResponse, None]:
        """Score the continuations of every item of a stream, each with an outcome of its own."""
        generator = self._generator.for_one_call()
        await context.send_initial_metadata(ITEM_GROUPS_METADATA)
        reader = ItemReader(context, translation.scoring_request, generation_pb2.StreamScoreContinuationsItem)
        async with aclosing(reader.items()) as items:
            stream = ItemStream(items, generator.score, self._stream_limits, name="StreamScoreContinuations/item")
            pacer = Pacer(_PACE_SECONDS)
            delay = partial(_delay_seconds, reader, pacer)
            async with aclosing(stream.groups(largest=_LARGEST_GROUP, delay_seconds=delay)) as groups:
                async for group in groups:
                    pacer.sent(len(group))
                    for message in stream_messages.scoring_outcomes(group, together=reader.has_groups):
                        yield message

    async def ScoreContinuations(
        self,
        request: generation_pb2.ScoreContinuationsRequest,
        context: grpc.aio.ServicerContext[
            generation_pb2.ScoreContinuationsRequest, generation_pb2.ScoreContinuationsResponse
        ],
    ) -> generation_pb2.ScoreContinuationsResponse:
        """Score all continuations of one context."""
        result = await self._generator.score(translation.scoring_request(request))
        return translation.scoring_response(result)

    async def ListCallerUsage(
        self,
        request: generation_pb2.ListCallerUsageRequest,
        context: grpc.aio.ServicerContext[
            generation_pb2.ListCallerUsageRequest, generation_pb2.ListCallerUsageResponse
        ],
    ) -> generation_pb2.ListCallerUsageResponse:
        """List what callers have cost."""
        page = paginate(
            await self._caller_ledger.callers(),
            key=lambda each: each.caller,
            page_size=request.page_size,
            page_token=request.page_token,
            scope="ListCallerUsage",
        )
        callers = [translation.caller_message(each) for each in page.items]
        return generation_pb2.ListCallerUsageResponse(callers=callers, next_page_token=page.next_page_token)


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Registers checkpoints."""

    def __init__(self, registrar: ModelRegistrar, lifecycle: ModelLifecycle) -> None:
        self._registrar = registrar
        self._lifecycle = lifecycle

    async def CreateModel(
        self,
        request: model_pb2.CreateModelRequest,
        context: grpc.aio.ServicerContext[model_pb2.CreateModelRequest, model_pb2.CreateModelResponse],
    ) -> model_pb2.CreateModelResponse:
        """Register a checkpoint and load it."""
        record = await self._registrar.create(model_messages.registration(request))
        return model_pb2.CreateModelResponse(model=model_messages.model_message(record))

    async def GetModel(
        self,
        request: model_pb2.GetModelRequest,
        context: grpc.aio.ServicerContext[model_pb2.GetModelRequest, model_pb2.GetModelResponse],
    ) -> model_pb2.GetModelResponse:
        """Read one model."""
        record = self._lifecycle.get(model_messages.model_id_of(request.name))
        return model_pb2.GetModelResponse(model=model_messages.model_message(record))

    async def ListModels(
        self,
        request: model_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[model_pb2.ListModelsRequest, model_pb2.ListModelsResponse],
    ) -> model_pb2.ListModelsResponse:
        """List models by name."""
        page = paginate(
            self._lifecycle.records(),
            key=lambda record: record.model_id,
            page_size=request.page_size,
            page_token=request.page_token,
            scope="ListModels",
        )
        models = [model_messages.model_message(record) for record in page.items]
        return model_pb2.ListModelsResponse(models=models, next_page_token=page.next_page_token)

    async def DeleteModel(
        self,
        request: model_pb2.DeleteModelRequest,
        context: grpc.aio.ServicerContext[model_pb2.DeleteModelRequest, model_pb2.DeleteModelResponse],
    ) -> model_pb2.DeleteModelResponse:
        """Unload and forget a model."""
        await self._lifecycle.delete(model_messages.model_id_of(request.name))
        return model_pb2.DeleteModelResponse()


def _delay_seconds(reader: ItemReader[Any], pacer: Pacer) -> float:
    """How long an outcome may wait for others, which helps only callers that take several outcomes a message."""
    return pacer.delay_seconds() if reader.has_groups else 0.0


def _checked(
    request: generation_pb2.GenerateRequest | InvalidArgumentError,
) -> GenerationRequest | InvalidArgumentError:
    if isinstance(request, InvalidArgumentError):
        return request
    try:
        return translation.generation_request(request)
    except InvalidArgumentError as error:
        return error


def _result(outcome: BatchOutcome) -> generation_pb2.GenerateResult:
    if isinstance(outcome, BaseException):
        return generation_pb2.GenerateResult(status=to_status(outcome))
    return generation_pb2.GenerateResult(response=translation.generation_response(outcome))
