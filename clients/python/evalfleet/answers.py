"""Answers and log-likelihoods of a fleet's checkpoints."""

from collections.abc import Generator, Iterable, Iterator, Sequence

from evalfleet import answer_messages as messages
from evalfleet.answer_messages import (
    ANSWER_TIMEOUT_SECONDS,
    DEFAULT_SAMPLING,
    PATIENCE_SECONDS,
    Answer,
    ContinuationScore,
    Priority,
    Prompt,
    Role,
    Sampling,
)
from evalfleet.bulk import answered_items
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.window import LONGEST_STREAM_SECONDS, WINDOW_ITEMS, Sent

__all__ = [
    "ANSWER_TIMEOUT_SECONDS",
    "DEFAULT_SAMPLING",
    "Answer",
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
            in_order: yield them in the order of the prompts.
            window: most prompts that are read and whose outcome is not yielded.
        """
        requests = (messages.generate_request_or_error(model, each, sampling, priority=priority) for each in prompts)

        def exchange(
            items: Iterator[Sent[generation_pb2.GenerateRequest]],
        ) -> Generator[generation_pb2.StreamGenerateResponse]:
            return self._connection.exchange(
                self._stub.StreamGenerate,
                (messages.stream_request(each) for each in items),
                timeout_seconds=LONGEST_STREAM_SECONDS,
            )

        for index, outcome in answered_items(
            requests,
            exchange,
            error_of=messages.error_in,
            patience_seconds=patience_seconds,
            in_order=in_order,
            window=window,
        ):
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
