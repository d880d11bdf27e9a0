"""Many requests to the generation service over its streams; what is refused for now is asked again."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from evalfleet import answer_messages
from evalfleet.bulk import answered_items, item_streams
from evalfleet.connections import Connection, Exchange
from evalfleet.errors import (
    DeadlineExceededError,
    EvalFleetError,
    ResourceExhaustedError,
    UnavailableError,
)
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.window import OutcomeT, Sent

PATIENCE_SECONDS = 600.0
_PAUSE_SECONDS = 1.0
_FOR_NOW = (ResourceExhaustedError, UnavailableError, DeadlineExceededError)

RequestT = TypeVar("RequestT")
MessageT = TypeVar("MessageT")


class GenerationStreams:
    """The streams of a generation service. Only a window of requests is in hand, so memory stays bounded.

    Args:
        connection: to the service.
        patience_seconds: longest time in which nothing is answered, because it is away or has no room.
    """

    def __init__(self, connection: Connection, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds

    def generate(
        self, requests: Sequence[generation_pb2.GenerateRequest]
    ) -> Iterator[tuple[int, generation_pb2.GenerateResponse]]:
        """Yield (index of the request, its answer) in the order in which they are ready.

        Raises:
            EvalFleetError: what is wrong with one of them, or with the service.
        """
        open_stream = item_streams(self._connection, self._stub.StreamGenerate, answer_messages.stream_request)
        answers = self._answers(requests, open_stream, answer_messages.stream_outcomes, answer_messages.error_in)
        for index, outcome in answers:
            yield index, outcome.response

    def score(
        self, requests: Sequence[generation_pb2.ScoreContinuationsRequest]
    ) -> Iterator[tuple[int, generation_pb2.ScoreContinuationsResponse]]:
        """Yield (index of the request, the scores of its continuations) in the order in which they are ready.

        Raises:
            EvalFleetError: what is wrong with one of them, or with the service.
        """
        open_stream = item_streams(
            self._connection, self._stub.StreamScoreContinuations, answer_messages.continuations_stream_request
        )
        outcomes_in, error_in = answer_messages.continuations_stream_outcomes, answer_messages.continuations_error_in
        for index, outcome in self._answers(requests, open_stream, outcomes_in, error_in):
            yield index, outcome.response

    @property
    def _stub(self) -> generation_pb2_grpc.GenerationServiceStub:
        return self._connection.stub(generation_pb2_grpc.GenerationServiceStub)

    def _answers(
        self,
        requests: Sequence[RequestT],
        open_stream: Callable[[Iterator[list[Sent[RequestT]]]], Exchange[MessageT]],
        outcomes_in: Callable[[MessageT], Iterable[OutcomeT]],
        error_of: Callable[[OutcomeT], EvalFleetError | None],
    ) -> Iterator[tuple[int, OutcomeT]]:
        waiting = list(range(len(requests)))
        answered_at = time.monotonic()
        while waiting:
            refused: list[int] = []
            reason: EvalFleetError | None = None
            asked = [requests[index] for index in waiting]
            for number, message in answered_items(
                asked,
                open_stream,
                outcomes_in=outcomes_in,
                error_of=error_of,
                patience_seconds=self._patience_seconds,
                silence_seconds=answer_messages.SILENCE_SECONDS,
            ):
                error = message if isinstance(message, EvalFleetError) else error_of(message)
                if error is None and not isinstance(message, EvalFleetError):
                    answered_at = time.monotonic()
                    yield waiting[number], message
                    continue
                if error is not None and not isinstance(error, _FOR_NOW):
                    raise error
                reason = error
                refused.append(waiting[number])
            if reason is not None:
                if time.monotonic() - answered_at > self._patience_seconds:
                    raise reason
                time.sleep(reason.retry_after_seconds or _PAUSE_SECONDS)
            waiting = refused
