"""Answers and log-likelihoods of a fleet's checkpoints, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from evalfleet import answer_messages as messages
from evalfleet.aio.bulk import AnyIterable, answered_batches, answered_items, each_of, item_streams
from evalfleet.aio.connections import AsyncConnection
from evalfleet.answer_messages import (
    ANSWER_TIMEOUT_SECONDS,
    BATCH_TIMEOUT_SECONDS,
    DEFAULT_SAMPLING,
    LARGEST_BATCH,
    PATIENCE_SECONDS,
    SILENCE_SECONDS,
    Answer,
    CallerUsage,
    ContinuationScore,
    Priority,
    Prompt,
    Sampling,
)
from evalfleet.errors import EvalFleetError
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.window import WINDOW_ITEMS


class AsyncGeneration:
    """The generation service: ``evalfleet.answers.Generation``, to be awaited."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> generation_pb2_grpc.GenerationServiceAsyncStub:
        return self._connection.stub(generation_pb2_grpc.GenerationServiceStub)

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        samples: int = 1,
        priority: Priority | None = None,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Answer:
        """Answer one prompt; the arguments are those of ``Generation.generate``."""
        request = messages.generate_request(model, prompt, sampling, samples=samples, priority=priority)
        answer = await self._connection.call(
            self._stub.Generate,
            request,
            timeout_seconds=timeout_seconds,
            may_be_hedged=messages.is_repeatable(sampling),
        )
        return messages.answer(answer)

    async def generate_batch(
        self,
        model: str,
        prompts: Sequence[Prompt],
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        samples: int = 1,
        priority: Priority | None = None,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
    ) -> list[Answer | EvalFleetError]:
        """Answer each prompt; one answer or error each, in their order; the arguments are those of ``generate``.

        Any number may be given; each call of the service carries up to 256 and takes up to ``timeout_seconds``.
        """
        requests = (
            messages.generate_request_or_error(model, each, sampling, samples=samples, priority=priority)
            for each in prompts
        )

        async def ask(some: list[generation_pb2.GenerateRequest]) -> Sequence[generation_pb2.GenerateResult]:
            batch = generation_pb2.BatchGenerateRequest(requests=some)
            answer = await self._connection.call(
                self._stub.BatchGenerate,
                batch,
                timeout_seconds=timeout_seconds,
                may_be_hedged=messages.is_repeatable(sampling),
            )
            return answer.results

        return [messages.outcome(each) for each in await answered_batches(requests, ask, largest=LARGEST_BATCH)]

    async def generate_tokens(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> AsyncGenerator[str | Answer, None]:
        """Yield the pieces of an answer as they are generated, and at last the whole answer.

        Use ``contextlib.aclosing`` where the loop may be left early: closing it stops the engine's work.
        """
        request = generation_pb2.GenerateTokensRequest(request=messages.generate_request(model, prompt, sampling))
        events = self._connection.stream(self._stub.GenerateTokens, request, timeout_seconds=timeout_seconds)
        async with aclosing(events):
            async for event in events:
                yield messages.token_event(event)

    async def generate_many(
        self,
        model: str,
        prompts: AnyIterable[Prompt | EvalFleetError],
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        priority: Priority | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
    ) -> AsyncGenerator[tuple[int, Answer | EvalFleetError], None]:
        """Yield (index of the prompt, its answer or what is wrong with it), once each, in the order they are ready.

        There may be any number of prompts, in any iterable or asynchronous iterator: no more are held than ``window``.
        The other arguments are those of ``Generation.generate_many``. Use ``contextlib.aclosing`` where the loop may be
        left early: closing it stops the engine's work.
        """
        requests = (
            messages.generate_request_or_error(model, each, sampling, priority=priority)
            async for each in each_of(prompts)
        )
        outcomes = answered_items(
            requests,
            item_streams(self._connection, self._stub.StreamGenerate, messages.stream_request),
            outcomes_in=messages.stream_outcomes,
            error_of=messages.error_in,
            patience_seconds=patience_seconds,
            silence_seconds=silence_seconds,
            in_order=in_order,
            window=window,
        )
        async with aclosing(outcomes):
            async for index, outcome in outcomes:
                yield index, messages.outcome(outcome)

    async def score_continuations(
        self,
        model: str,
        context: Prompt,
        continuations: Sequence[str],
        *,
        priority: Priority | None = None,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> tuple[ContinuationScore, ...]:
        """Return how likely each continuation of a context is, in their order."""
        request = messages.continuations_request(model, context, continuations, priority)
        answer = await self._connection.call(
            self._stub.ScoreContinuations, request, timeout_seconds=timeout_seconds, may_be_hedged=True
        )
        return messages.continuation_scores(answer)

    async def score_continuations_many(
        self,
        model: str,
        questions: AnyIterable[tuple[Prompt, Sequence[str]] | EvalFleetError],
        *,
        priority: Priority | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
    ) -> AsyncGenerator[tuple[int, tuple[ContinuationScore, ...] | EvalFleetError], None]:
        """Yield (index of the question, the scores of its continuations or what is wrong with it), once each.

        A question is a context and all that may follow it. The other arguments are those of ``generate_many``, and what
        is said there holds.
        """
        requests = (messages.continuations_request_or_error(model, each, priority) async for each in each_of(questions))
        outcomes = answered_items(
            requests,
            item_streams(self._connection, self._stub.StreamScoreContinuations, messages.continuations_stream_request),
            outcomes_in=messages.continuations_stream_outcomes,
            error_of=messages.continuations_error_in,
            patience_seconds=patience_seconds,
            silence_seconds=silence_seconds,
            in_order=in_order,
            window=window,
        )
        async with aclosing(outcomes):
            async for index, outcome in outcomes:
                yield index, messages.continuations_outcome(outcome)

    async def caller_usage(self) -> tuple[CallerUsage, ...]:
        """Return what each caller has cost so far, ordered by name."""
        pages = self._connection.pages(self._stub.ListCallerUsage, messages.usage_request)
        return tuple([messages.caller_usage(each) async for page in pages for each in page.callers])
