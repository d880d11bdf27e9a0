"""Verdicts of a fleet's guard models."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from evalfleet import decoding, policies
from evalfleet import verdict_messages as messages
from evalfleet.batches import answered_batches
from evalfleet.bulk import answered_items, item_streams
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError
from evalfleet.names import full_name
from evalfleet.results import Guard, Policy, RollingVerdict, Verdict
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from evalfleet.verdict_messages import (
    BATCH_TIMEOUT_SECONDS,
    LARGEST_BATCH,
    PATIENCE_SECONDS,
    SILENCE_SECONDS,
    Aspect,
    ClassifyOptions,
    Conversation,
    GuardOptions,
    Role,
)
from evalfleet.window import LONGEST_STREAM_SECONDS, WINDOW_ITEMS

__all__ = ["Aspect", "Conversation", "Role", "Safety"]


class Safety:
    """The safety service's judgement of conversations.

    All ways to ask take the same options: ``guard``, the name of a guard instead of the service's default;
    ``threshold`` on the probability of a hazard, above 0 and up to 1, instead of the guard's; ``policy``, the name of
    one that the service knows, or one of your own. ``aspect`` says as what the last turn is judged, ``prompt`` or
    ``response``; without it, its role does.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> safety_pb2_grpc.SafetyServiceStub:
        return self._connection.stub(safety_pb2_grpc.SafetyServiceStub)

    def classify(self, conversation: Conversation, **options: Unpack[ClassifyOptions]) -> Verdict:
        """Judge the last turn of a conversation."""
        request = messages.classify_request(conversation, **options)
        return decoding.verdict(self._connection.call(self._stub.Classify, request, may_be_hedged=True).verdict)

    def classify_batch(
        self,
        conversations: Sequence[Conversation],
        *,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
        **options: Unpack[ClassifyOptions],
    ) -> list[Verdict | EvalFleetError]:
        """Judge the last turn of each conversation; one verdict or error each, in their order.

        Any number may be given; each call of the service carries up to 256 and takes up to ``timeout_seconds``.
        """
        requests = (messages.classify_request_or_error(each, **options) for each in conversations)

        def ask(some: list[safety_pb2.ClassifyRequest]) -> Sequence[safety_pb2.ClassifyResult]:
            batch = safety_pb2.BatchClassifyRequest(requests=some)
            answer = self._connection.call(
                self._stub.BatchClassify, batch, timeout_seconds=timeout_seconds, may_be_hedged=True
            )
            return answer.results

        return [messages.outcome(each) for each in answered_batches(requests, ask, largest=LARGEST_BATCH)]

    def classify_many(
        self,
        conversations: Iterable[Conversation | EvalFleetError],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
        **options: Unpack[ClassifyOptions],
    ) -> Iterator[tuple[int, Verdict | EvalFleetError]]:
        """Yield (index of the conversation, its verdict or error), once each, in the order in which they are ready.

        There may be any number of conversations: no more are held than ``window``. A service that is restarted
        meanwhile is waited for; leaving the loop stops the guards' work.

        Args:
            conversations: read as fast as the service takes them, in a thread of its own; an error in place of one is
                its outcome.
            patience_seconds: longest time that the service may be away.
            silence_seconds: longest time without an outcome, after which what has none is sent again.
            in_order: yield them in the order of the conversations.
            window: most conversations that are read and whose outcome is not yielded.
            options: as in ``classify``.
        """
        requests = (messages.classify_request_or_error(each, **options) for each in conversations)
        outcomes = answered_items(
            requests,
            item_streams(self._connection, self._stub.StreamClassify, messages.stream_request),
            outcomes_in=messages.stream_outcomes,
            error_of=messages.error_in,
            patience_seconds=patience_seconds,
            silence_seconds=silence_seconds,
            in_order=in_order,
            window=window,
        )
        for index, outcome in outcomes:
            yield index, messages.outcome(outcome)

    def classify_growing(
        self,
        conversation: Conversation,
        pieces: Iterable[str],
        *,
        every_characters: int | None = None,
        **options: Unpack[GuardOptions],
    ) -> Iterator[RollingVerdict]:
        """Judge a response while it is being generated; yield a verdict now and then, and at last the final one.

        Until then SAFE says nothing of what is still to come; UNSAFE stays, whatever comes. Leave the loop to stop:
        ``pieces`` is read no further.

        Args:
            conversation: the turns before the response.
            pieces: the response's text, piece by piece, as it is generated; read in a thread of its own.
            every_characters: a verdict is due when so many characters are not judged yet, and at least an eighth of
                those that were; default: 200.
            options: as in ``classify``, but for ``aspect``.
        """
        opening = messages.opening(conversation, every_characters, **options)
        failures: list[BaseException] = []

        def requests() -> Iterator[safety_pb2.StreamClassifyRequest]:
            yield opening
            try:
                for text in pieces:
                    yield messages.piece(text)
            except Exception as error:
                # gRPC would swallow it in its own thread: kept for the caller's.
                failures.append(error)
                raise
            yield messages.last_piece()

        try:
            for each in self._connection.exchange(
                self._stub.StreamClassify, requests(), timeout_seconds=LONGEST_STREAM_SECONDS
            ):
                yield messages.rolling_verdict(each)
                if each.final:
                    return
        finally:
            if failures:
                raise failures[0]

    def guards(self) -> tuple[Guard, ...]:
        """Return the guards of the service, ordered by name."""
        pages = self._connection.pages(self._stub.ListGuards, messages.guards_request)
        return tuple(decoding.guard(each) for page in pages for each in page.guards)

    def guard(self, name: str) -> Guard:
        """Return one guard; its name may be shortened to the part behind ``guards/``."""
        request = safety_pb2.GetGuardRequest(name=full_name("guards", name))
        return decoding.guard(self._connection.call(self._stub.GetGuard, request, may_be_hedged=True).guard)

    def policies(self) -> tuple[Policy, ...]:
        """Return the policies of the service, ordered by name."""
        pages = self._connection.pages(self._stub.ListPolicies, messages.policies_request)
        return tuple(policies.from_message(each) for page in pages for each in page.policies)

    def policy(self, name: str) -> Policy:
        """Return one policy; its name may be shortened to the part behind ``policies/``."""
        request = safety_pb2.GetPolicyRequest(name=full_name("policies", name))
        return policies.from_message(self._connection.call(self._stub.GetPolicy, request, may_be_hedged=True).policy)
