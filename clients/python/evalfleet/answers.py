"""Answers and log-likelihoods of a fleet's checkpoints."""

from collections.abc import Iterable, Iterator, Sequence

from evalfleet import answer_messages as messages
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
    Role,
    Sampling,
)
from evalfleet.batches import answered_batches
from evalfleet.bulk import answered_items, item_streams
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.window import WINDOW_ITEMS

__all__ = [
    "ANSWER_TIMEOUT_SECONDS",
    "DEFAULT_SAMPLING",
    "Answer",
    "CallerUsage",
    "ContinuationScore",
    "Generation",
    "Priority",
    "Prompt",
    "Role",
    "Sampling",
]


class Generation:
    """The generation service; models may be given as ``models/step-100`` or ``step-100``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> generation_pb2_grpc.GenerationServiceStub:
        return self._connection.stub(generation_pb2_grpc.GenerationServiceStub)

    def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        samples: int = 1,
        priority: Priority | None = None,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Answer:
        """Answer one prompt.

        Args:
            model: name of a registered model.
            prompt: a text or a conversation.
            sampling: how to choose tokens.
            samples: how many answers; more than one needs a temperature above 0.
            priority: whose turn comes first; default: ``evaluation``.
            timeout_seconds: longest wait.
        """
        request = messages.generate_request(model, prompt, sampling, samples=samples, priority=priority)
        answer = self._connection.call(
            self._stub.Generate,
            request,
            timeout_seconds=timeout_seconds,
            may_be_hedged=messages.is_repeatable(sampling),
        )
        return messages.answer(answer)

    def generate_batch(
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

        def ask(some: list[generation_pb2.GenerateRequest]) -> Sequence[generation_pb2.GenerateResult]:
            batch = generation_pb2.BatchGenerateRequest(requests=some)
            answer = self._connection.call(
                self._stub.BatchGenerate,
                batch,
                timeout_seconds=timeout_seconds,
                may_be_hedged=messages.is_repeatable(sampling),
            )
            return answer.results

        return [messages.outcome(each) for each in answered_batches(requests, ask, largest=LARGEST_BATCH)]

    def generate_tokens(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Iterator[str | Answer]:
        """Yield the pieces of an answer as they are generated, and at last the whole answer.

        Leaving the loop stops the engine's work.
        """
        request = generation_pb2.GenerateTokensRequest(request=messages.generate_request(model, prompt, sampling))
        for event in self._connection.stream(self._stub.GenerateTokens, request, timeout_seconds=timeout_seconds):
            yield messages.token_event(event)

    def generate_many(
        self,
        model: str,
        prompts: Iterable[Prompt | EvalFleetError],
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        priority: Priority | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
    ) -> Iterator[tuple[int, Answer | EvalFleetError]]:
        """Yield (index of the prompt, its answer or what is wrong with it), once each, in the order they are ready.

        There may be any number of prompts: no more are held than ``window``. A service that is restarted meanwhile is
        waited for; leaving the loop stops the engine's work.

        Args:
            model: name of a registered model.
            prompts: read as fast as the service takes them, in a thread of its own; an error in place of one is its
                outcome.
            sampling: how to choose tokens.
            priority: whose turn comes first; default: ``evaluation``.
            patience_seconds: longest time that the service may be away.
            silence_seconds: longest time without an outcome, after which what has none is sent again.
            in_order: yield them in the order of the prompts.
            window: most prompts that are read and whose outcome is not yielded.
        """
        requests = (messages.generate_request_or_error(model, each, sampling, priority=priority) for each in prompts)
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
        for index, outcome in outcomes:
            yield index, messages.outcome(outcome)

    def score_continuations(
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
        answer = self._connection.call(
            self._stub.ScoreContinuations, request, timeout_seconds=timeout_seconds, may_be_hedged=True
        )
        return messages.continuation_scores(answer)

    def score_continuations_many(
        self,
        model: str,
        questions: Iterable[tuple[Prompt, Sequence[str]] | EvalFleetError],
        *,
        priority: Priority | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
    ) -> Iterator[tuple[int, tuple[ContinuationScore, ...] | EvalFleetError]]:
        """Yield (index of the question, the scores of its continuations or what is wrong with it), once each.

        A question is a context and all that may follow it. The other arguments are those of ``generate_many``, and what
        is said there holds.
        """
        requests = (messages.continuations_request_or_error(model, each, priority) for each in questions)
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
        for index, outcome in outcomes:
            yield index, messages.continuations_outcome(outcome)

    def caller_usage(self) -> tuple[CallerUsage, ...]:
        """Return what each caller has cost so far, ordered by name."""
        pages = self._connection.pages(self._stub.ListCallerUsage, messages.usage_request)
        return tuple(messages.caller_usage(each) for page in pages for each in page.callers)
