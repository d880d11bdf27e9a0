"""Answers and log-likelihoods of a fleet's checkpoints, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from evalfleet import answer_messages as messages
from evalfleet.aio.bulk import AnyIterable, answered_items, each_of
from evalfleet.aio.connections import AsyncConnection
from evalfleet.answer_messages import (
    ANSWER_TIMEOUT_SECONDS,
    DEFAULT_SAMPLING,
    PATIENCE_SECONDS,
    Answer,
    ContinuationScore,
    Priority,
    Prompt,
    Sampling,
)
from evalfleet.errors import EvalFleetError
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.window import LONGEST_STREAM_SECONDS, WINDOW_ITEMS, Sent


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

        def exchange(
            items: AsyncGenerator[Sent[generation_pb2.GenerateRequest], None],
        ) -> AsyncGenerator[generation_pb2.StreamGenerateResponse, None]:
            return self._connection.exchange(
                self._stub.StreamGenerate,
                (messages.stream_request(each) async for each in items),
                timeout_seconds=LONGEST_STREAM_SECONDS,
            )

        outcomes = answered_items(
            requests,
            exchange,
            error_of=messages.error_in,
            patience_seconds=patience_seconds,
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
