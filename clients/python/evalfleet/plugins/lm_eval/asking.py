"""Many requests to the generation service over its streams; what is refused for now is asked again."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

from evalfleet import answer_messages
from evalfleet.bulk import answered_items
from evalfleet.connections import Connection
from evalfleet.errors import (
    DeadlineExceededError,
    EvalFleetError,
    ResourceExhaustedError,
    UnavailableError,
    from_status,
)
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.window import LONGEST_STREAM_SECONDS, MessageT, Sent

PATIENCE_SECONDS = 600.0
_PAUSE_SECONDS = 1.0
_FOR_NOW = (ResourceExhaustedError, UnavailableError, DeadlineExceededError)

RequestT = TypeVar("RequestT")


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

        def exchange(
            items: Iterator[Sent[generation_pb2.GenerateRequest]],
        ) -> Generator[generation_pb2.StreamGenerateResponse]:
            return self._connection.exchange(
                self._stub.StreamGenerate,
                (answer_messages.stream_request(each) for each in items),
                timeout_seconds=LONGEST_STREAM_SECONDS,
            )

        for index, message in self._answers(requests, exchange, answer_messages.error_in):
            yield index, message.response

    def score(
        self, requests: Sequence[generation_pb2.ScoreContinuationsRequest]
    ) -> Iterator[tuple[int, generation_pb2.ScoreContinuationsResponse]]:
        """Yield (index of the request, the scores of its continuations) in the order in which they are ready.

        Raises:
            EvalFleetError: what is wrong with one of them, or with the service.
        """

        def exchange(
            items: Iterator[Sent[generation_pb2.ScoreContinuationsRequest]],
        ) -> Generator[generation_pb2.StreamScoreContinuationsResponse]:
            return self._connection.exchange(
                self._stub.StreamScoreContinuations,
                (
                    generation_pb2.StreamScoreContinuationsRequest(item_id=each.item_id, request=each.request)
                    for each in items
                ),
                timeout_seconds=LONGEST_STREAM_SECONDS,
            )

        for index, message in self._answers(requests, exchange, _error_in):
            yield index, message.response

    @property
    def _stub(self) -> generation_pb2_grpc.GenerationServiceStub:
        return self._connection.stub(generation_pb2_grpc.GenerationServiceStub)

    def _answers(
        self,
        requests: Sequence[RequestT],
        exchange: Callable[[Iterator[Sent[RequestT]]], Generator[MessageT]],
        error_of: Callable[[MessageT], EvalFleetError | None],
    ) -> Iterator[tuple[int, MessageT]]:
        waiting = list(range(len(requests)))
        answered_at = time.monotonic()
        while waiting:
            refused: list[int] = []
            reason: EvalFleetError | None = None
            asked = [requests[index] for index in waiting]
            for number, message in answered_items(
                asked, exchange, error_of=error_of, patience_seconds=self._patience_seconds
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


def _error_in(message: generation_pb2.StreamScoreContinuationsResponse) -> EvalFleetError | None:
    return None if message.HasField("response") else from_status(message.status)
