"""The generation and aggregation services over gRPC."""

import copy
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from typing import TypeVar

import grpc.aio
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

from services.evaluation.errors import LeaseLostError
from services.evaluation.items import Prompt
from services.evaluation.runs import drawing_messages, translation
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.item_streams import ItemStreams
from services.evaluation.runs.model_changes import ModelContent
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.outcome_metrics import OutcomeMetrics
from services.evaluation.runs.peers import (
    AppendReceipt,
    ContinuationScores,
    GeneratedText,
    GenerationOptions,
    ItemKey,
    TaskFindings,
)
from services.runtime.calls import current_traceparent
from services.runtime.errors import (
    FailedPreconditionError,
    InternalError,
    UnavailableError,
    from_rpc_error,
)
from services.runtime.usage_messages import usage_from_proto

ResponseT = TypeVar("ResponseT")

_LEDGER_PAGE_SIZE = 10_000
_LOADING_RETRY_SECONDS = 2.0
_LEDGER_MESSAGE_BYTES = 4 << 20
"""A quarter of what services take by default; one outcome alone may be longer."""


async def _typed(call: Awaitable[ResponseT]) -> ResponseT:
    """Await a call; what it fails with is raised as a FleetError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _cut(results: Sequence[aggregation_pb2.Result], largest_bytes: int) -> Iterator[list[aggregation_pb2.Result]]:
    """Yield the results in pieces of at most so many bytes, or of one result."""
    piece: list[aggregation_pb2.Result] = []
    size = 0
    for result in results:
        if piece and size + result.ByteSize() > largest_bytes:
            yield piece
            piece, size = [], 0
        piece.append(result)
        size += result.ByteSize()
    if piece:
        yield piece


def generate_items(
    items: Sequence[tuple[str, generation_pb2.GenerateRequest]],
) -> generation_pb2.StreamGenerateRequest:
    """Make a stream's message of items, each an id and a request."""
    (item_id, request), *more = items
    message = generation_pb2.StreamGenerateRequest(item_id=item_id, request=request)
    for item_id, request in more:
        message.more.add(item_id=item_id, request=request)
    return message


def score_items(
    items: Sequence[tuple[str, generation_pb2.ScoreContinuationsRequest]],
) -> generation_pb2.StreamScoreContinuationsRequest:
    """Make a stream's message of items, each an id and a request."""
    (item_id, request), *more = items
    message = generation_pb2.StreamScoreContinuationsRequest(item_id=item_id, request=request)
    for item_id, request in more:
        message.more.add(item_id=item_id, request=request)
    return message


class RemoteGenerator:
    """The generation service behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._models = model_pb2_grpc.ModelServiceStub(channel)
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._generations: ItemStreams[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse] = ItemStreams(
            stub.StreamGenerate,
            generate_items,
            lambda request: _typed(stub.Generate(request, timeout=timeout_seconds)),
            timeout_seconds=timeout_seconds,
        )
        self._scorings: ItemStreams[
            generation_pb2.ScoreContinuationsRequest, generation_pb2.ScoreContinuationsResponse
        ] = ItemStreams(
            stub.StreamScoreContinuations,
            score_items,
            lambda request: _typed(stub.ScoreContinuations(request, timeout=timeout_seconds)),
            timeout_seconds=timeout_seconds,
        )

    async def model_digest(self, model: str) -> str:
        """Content digest of a model; see ``model_content`` for the errors."""
        return (await self.model_content(model)).digest

    async def model_content(self, model: str) -> ModelContent:
        """All digests of a model.

        Raises:
            NotFoundError: there is no such model.
            FailedPreconditionError: MODEL_FAILED.
            UnavailableError: MODEL_LOADING, its content is still being read, so that it has no digest yet.
        """
        try:
            request = model_pb2.GetModelRequest(name=model)
            found = (await self._models.GetModel(request, timeout=self._timeout_seconds)).model
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        if found.state == model_pb2.MODEL_STATE_FAILED:
            raise FailedPreconditionError(
                f"{model} could not be loaded: {found.failure}", reason="MODEL_FAILED", metadata={"model": model}
            )
        if not found.digest:
            raise UnavailableError(
                f"{model} is still being loaded, and its content is not known yet; try again",
                reason="MODEL_LOADING",
                metadata={"model": model},
                retry_after_seconds=_LOADING_RETRY_SECONDS,
            )
        return ModelContent(found.digest, found.base_digest, found.lineage_digest)

    async def generate(self, model: str, prompt: Prompt, options: GenerationOptions) -> Sequence[GeneratedText]:
        """``options.sample_count`` answers."""
        request = translation.generate_request(model, prompt, options)
        request.traceparent = current_traceparent()
        response = await self._generations.ask(request)
        if len(response.completions) != options.sample_count:
            raise InternalError(f"{len(response.completions)} answers instead of {options.sample_count}")
        return translation.generated_from_proto(response)

    async def score(
        self, model: str, context: Prompt, continuations: Sequence[str], *, truncate_left: bool
    ) -> ContinuationScores:
        """Log-likelihoods of all continuations of one context."""
        request = translation.score_continuations_request(model, context, continuations, truncate_left=truncate_left)
        request.traceparent = current_traceparent()
        response = await self._scorings.ask(request)
        if len(response.scores) != len(continuations):
            raise InternalError(f"{len(response.scores)} scores for {len(continuations)} continuations")
        return ContinuationScores(
            log_likelihoods=tuple(score.log_likelihood for score in response.scores),
            token_counts=tuple(score.token_count for score in response.scores),
            usage=usage_from_proto(response.usage),
            model_digest=response.model_digest,
            truncated=response.truncated,
        )


class RemoteLedger:
    """The aggregation service behind a channel.

    Args:
        channel: to it.
        timeout_seconds: longest time of one call.
        metrics: counts what it has acknowledged.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_seconds: float, metrics: OutcomeMetrics | None = None
    ) -> None:
        self._metrics = metrics
        self._stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._epoch: int | None = None

    def fenced(self, epoch: int) -> "RemoteLedger":
        """The same ledger for the holder of a run's lease."""
        fenced = copy.copy(self)
        fenced._epoch = epoch
        return fenced

    async def append(self, run: str, outcomes: Sequence[ItemOutcome]) -> AppendReceipt:
        """Store outcomes durably, idempotently.

        Raises:
            LeaseLostError: another replica works on the run.
        """
        results = [translation.result_to_proto(run, outcome) for outcome in outcomes]
        lease = None if self._epoch is None else aggregation_pb2.RunLease(run=run, epoch=self._epoch)

        async def requests() -> AsyncIterator[aggregation_pb2.AppendResultsRequest]:
            sent = 0
            # Without results there is one message all the same: it may say that another lease ended.
            for some in _cut(results, _LEDGER_MESSAGE_BYTES) if results else ((),):
                traces = [each.traceparent for each in outcomes[sent : sent + len(some)]]
                sent += len(some)
                yield aggregation_pb2.AppendResultsRequest(
                    results=some, lease=lease, traceparents=traces if any(traces) else ()
                )

        try:
            response = await self._stub.AppendResults(requests(), timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as broken:
            error = from_rpc_error(broken)
            if error.reason == LeaseLostError.default_reason:
                error = LeaseLostError(error.message, metadata=error.metadata)
            raise error from broken
        if response.appended_count + response.duplicate_count != len(outcomes):
            raise InternalError("the ledger acknowledged another number of results than it was sent")
        if self._metrics is not None:
            self._metrics.count(outcomes)
        decisions = tuple(drawing_messages.decision_from_proto(each) for each in response.decisions)
        return AppendReceipt(response.appended_count, decisions, incarnation=response.ledger_incarnation)

    async def findings(self, run: str) -> Mapping[str, TaskFindings]:
        """What a run has found about each task; empty for a run that it doesn't know."""
        found = await self.estimates(run)
        scores: dict[str, dict[str, float]] = {}
        for each in found.estimates:
            if not each.group and each.HasField("value"):
                scores.setdefault(each.task, {})[each.metric] = (
                    each.task_value if each.HasField("task_value") else each.value
                )
        return {
            each.task: TaskFindings(
                dataclasses.replace(Spend.of_item(usage_from_proto(each.usage)), items=each.item_count),
                scores.get(each.task, {}),
            )
            for each in found.totals
        }

    async def keys(self, run: str) -> AsyncIterator[ItemKey]:
        """Every outcome that the ledger has of a run; none for a run that it doesn't know."""
        request = aggregation_pb2.ListResultsRequest(
            run=run, view=aggregation_pb2.RESULT_VIEW_KEYS, page_size=_LEDGER_PAGE_SIZE
        )
        while True:
            try:
                page = await self._stub.ListResults(request, timeout=self._timeout_seconds)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    return
                raise from_rpc_error(error) from error
            for result in page.results:
                failed = result.WhichOneof("outcome") == "failure"
                yield ItemKey(result.task, result.item, result.sample, failed, result.draw_index)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def estimates(self, run: str) -> aggregation_pb2.GetEstimatesResponse:
        """Estimates and totals so far; empty for a run without results."""
        try:
            request = aggregation_pb2.GetEstimatesRequest(run=run)
            return await self._stub.GetEstimates(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return aggregation_pb2.GetEstimatesResponse()
            raise from_rpc_error(error) from error
