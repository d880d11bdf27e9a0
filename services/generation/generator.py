"""Generates and scores with registered models."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from typing import TypeVar

from services.generation.admission import Admission, CallPlaces
from services.generation.answering import BatchOutcome
from services.generation.backend import EngineAnswer, InferenceBackend
from services.generation.cost.bill import Bill
from services.generation.cost.engine_costs import (
    answer_cost,
    characters_in,
    least_cost,
    piece_cost,
    scores_cost,
    together,
)
from services.generation.errors import ModelLostError
from services.generation.lifecycle import ModelLifecycle
from services.generation.models import ModelRecord
from services.generation.requests import (
    Completion,
    GenerationRequest,
    GenerationResult,
    Prompt,
    Sampling,
    ScoringRequest,
    ScoringResult,
    TextPiece,
)
from services.generation.sample_seeds import sample_seed
from services.generation.samples import all_samples
from services.inference.shared_streams import sharing_streams
from services.runtime.deadlines import bind_deadline, child_timeout
from services.runtime.telemetry.spans import span
from services.runtime.time_limits import batch_seconds

ResultT = TypeVar("ResultT")

_ATTEMPTS = 3
_CHARACTERS_A_TOKEN = 4


class Generator:
    """Answers requests with whatever model they name, loading it again when the inference server lost it.

    Args:
        models: knows which models take requests.
        backend: does the work.
        admission: bounds what is asked of the backend at once.
        request_timeout_seconds: bound of one engine request whose caller set none or a longer one.
    """

    def __init__(
        self,
        models: ModelLifecycle,
        backend: InferenceBackend,
        admission: Admission,
        *,
        request_timeout_seconds: float,
    ) -> None:
        self._models = models
        self._backend = backend
        self._admission = admission
        self._request_timeout_seconds = request_timeout_seconds
        self._places: CallPlaces | None = None

    def for_one_call(self) -> "Generator":
        """Return the same with the places of one call for all that it is asked.

        Raises:
            InvalidArgumentError: CALLER_INVALID.
        """
        bound = copy(self)
        bound._places = self._call_places()
        return bound

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate all samples of one request.

        Raises:
            FleetError: unknown or failed model, prompt too long, out of time, or inference unavailable.
        """
        return await self._generate(request, self._call_places())

    async def generate_batch(self, requests: Sequence[GenerationRequest | BaseException]) -> list[BatchOutcome]:
        """Generate for many requests; one outcome each, in their order.

        Args:
            requests: an exception in place of a request is its outcome.
        """
        places = self._call_places()
        seconds = batch_seconds()

        async def outcome(request: GenerationRequest | BaseException) -> GenerationResult:
            if isinstance(request, BaseException):
                raise request
            with span("BatchGenerate/item", "server", parent=request.traceparent):
                async with asyncio.timeout(seconds):
                    return await self._generate(request, places)

        with bind_deadline(seconds):
            return await asyncio.gather(*(outcome(request) for request in requests), return_exceptions=True)

    async def generate_pieces(self, request: GenerationRequest) -> AsyncGenerator[TextPiece | GenerationResult, None]:
        """Generate one answer and yield it piece by piece, and at last as a whole; ``sample_count`` is not looked at.

        A model that gets lost is waited for as long as no piece has been yielded.

        Raises:
            FleetError: as for ``generate``.
        """
        places = self._call_places()
        for attempt in range(1, _ATTEMPTS + 1):
            model = await self._models.ready(request.model_id)
            has_begun = False
            try:
                with self._models.using(model):
                    async with aclosing(self._pieces(model.record, request, places)) as pieces:
                        async for piece in pieces:
                            has_begun = True
                            yield piece
                return
            except ModelLostError as error:
                self._models.report_lost(model, error)
                if has_begun or attempt == _ATTEMPTS:
                    raise

    async def _pieces(
        self, record: ModelRecord, request: GenerationRequest, places: CallPlaces
    ) -> AsyncGenerator[TextPiece | GenerationResult, None]:
        told = least_cost(request.prompt, record.context_tokens)
        async with (
            places.place(request.priority, _generation_tokens(request)),
            aclosing(
                self._backend.generate_pieces(
                    record.deployment.name,
                    request.prompt,
                    _sampling_of(request.sampling, request.sample_indices[0]),
                    truncate=request.truncate,
                    timeout_seconds=child_timeout(self._request_timeout_seconds),
                )
            ) as pieces,
        ):
            with (request.bill or Bill()).work(record.engine, told) as work:
                async for piece in pieces:
                    if isinstance(piece, EngineAnswer):
                        work.tell(answer_cost(piece))
                        yield _result([piece], record)
                    else:
                        told = piece_cost(piece, told)
                        work.tell(told)
                        yield piece

    async def score(self, request: ScoringRequest) -> ScoringResult:
        """Score all continuations of one context, in one engine request.

        Raises:
            FleetError: as for ``generate``.
        """
        places = self._call_places()

        async def work(record: ModelRecord) -> ScoringResult:
            async with places.place(request.priority, _scoring_tokens(request)):
                with (request.bill or Bill()).work(
                    record.engine, least_cost(request.context, record.context_tokens)
                ) as work:
                    with sharing_streams(places):
                        answer = await self._backend.score(
                            record.deployment.name,
                            request.context,
                            request.continuations,
                            truncate=request.truncate,
                            timeout_seconds=child_timeout(self._request_timeout_seconds),
                        )
                    usage = scores_cost(answer)
                    work.tell(usage)
            return ScoringResult(answer.scores, usage, record.digest, answer.truncated, record.engine)

        return await self._with_model(request.model_id, work)

    def _call_places(self) -> CallPlaces:
        return self._places or self._admission.open_call()

    async def _generate(self, request: GenerationRequest, places: CallPlaces) -> GenerationResult:
        async def work(record: ModelRecord) -> GenerationResult:
            samples = [self._sample(record, request, index, places) for index in request.sample_indices]
            return _result(await all_samples(samples), record)

        return await self._with_model(request.model_id, work)

    async def _sample(
        self, record: ModelRecord, request: GenerationRequest, index: int, places: CallPlaces
    ) -> EngineAnswer:
        async with places.place(request.priority, _generation_tokens(request)):
            with (request.bill or Bill()).work(
                record.engine, least_cost(request.prompt, record.context_tokens)
            ) as work:
                # The items of a call end with it, so that a cancel of their stream is what their cancel would be.
                with sharing_streams(places):
                    answer = await self._backend.generate(
                        record.deployment.name,
                        request.prompt,
                        _sampling_of(request.sampling, index),
                        truncate=request.truncate,
                        timeout_seconds=child_timeout(self._request_timeout_seconds),
                    )
                work.tell(answer_cost(answer))
                return answer

    async def _with_model(self, model_id: str, work: Callable[[ModelRecord], Awaitable[ResultT]]) -> ResultT:
        """Do ``work`` with a model that takes requests; when it gets lost, wait for it and do the work anew."""
        for attempt in range(1, _ATTEMPTS + 1):
            model = await self._models.ready(model_id)
            try:
                with self._models.using(model):
                    return await work(model.record)
            except ModelLostError as error:
                self._models.report_lost(model, error)
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")


def _generation_tokens(request: GenerationRequest) -> int:
    return _prompt_tokens(request.prompt) + request.sampling.max_tokens


def _scoring_tokens(request: ScoringRequest) -> int:
    return _prompt_tokens(request.context) + sum(len(text) for text in request.continuations) // _CHARACTERS_A_TOKEN


def _prompt_tokens(prompt: Prompt) -> int:
    """Estimate what only the engine's tokenizer knows."""
    return characters_in(prompt) // _CHARACTERS_A_TOKEN


def _sampling_of(sampling: Sampling, index: int) -> Sampling:
    if sampling.seed is None:
        return sampling
    if sampling.temperature == 0:
        return replace(sampling, seed=None)
    return replace(sampling, seed=sample_seed(sampling.seed, index))


def _result(answers: Sequence[EngineAnswer], record: ModelRecord) -> GenerationResult:
    usage = together([answer_cost(answer) for answer in answers])
    completions = [Completion(answer.text, answer.finish_reason, answer.completion_tokens) for answer in answers]
    truncated = any(answer.truncated for answer in answers)
    return GenerationResult(completions, usage, record.digest, truncated, record.engine)
