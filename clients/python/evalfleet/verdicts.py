"""Verdicts of a fleet's guard models."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from evalfleet import decoding, policies
from evalfleet.bulk import answered_batches, answered_sendable_items
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import LARGEST_PAGE, Connection
from evalfleet.errors import EvalFleetError, InvalidArgumentError, from_status
from evalfleet.names import full_name
from evalfleet.results import Guard, Policy, RollingVerdict, Verdict
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

LARGEST_BATCH = 256
BATCH_TIMEOUT_SECONDS = 300.0
PATIENCE_SECONDS = 60.0

Aspect = Literal["prompt", "response"]
Role = Literal["system", "user", "assistant"]
Conversation: TypeAlias = Sequence[tuple[Role, str]]
"""(role, text) of each turn, oldest first; the last one is judged."""

_ASPECTS = {"prompt": safety_pb2.ASPECT_PROMPT, "response": safety_pb2.ASPECT_RESPONSE}
_ROLES = {
    "system": common_pb2.ROLE_SYSTEM,
    "user": common_pb2.ROLE_USER,
    "assistant": common_pb2.ROLE_ASSISTANT,
}


class Safety:
    """The safety service's judgement of conversations.

    All ways to ask take the same options: ``guard``, the name of a guard instead of the service's default;
    ``threshold`` on the probability of a hazard, above 0 and up to 1, instead of the guard's; ``policy``, the name of
    one that the service knows, or one of your own. ``aspect`` says as what the last turn is judged, ``prompt`` or
    ``response``; without it, its role does.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = safety_pb2_grpc.SafetyServiceStub(connection.channel)

    def classify(
        self,
        conversation: Conversation,
        *,
        aspect: Aspect | None = None,
        guard: str | None = None,
        threshold: float | None = None,
        policy: str | Policy | None = None,
    ) -> Verdict:
        """Judge the last turn of a conversation."""
        request = _request(conversation, aspect, guard, threshold, policy)
        return decoding.verdict(self._connection.call(self._stub.Classify, request).verdict)

    def classify_batch(
        self,
        conversations: Sequence[Conversation],
        *,
        aspect: Aspect | None = None,
        guard: str | None = None,
        threshold: float | None = None,
        policy: str | Policy | None = None,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
    ) -> list[Verdict | EvalFleetError]:
        """Judge the last turn of each conversation; one verdict or error each, in their order.

        Any number may be given; each call of the service carries up to 256 and takes up to ``timeout_seconds``.
        """
        requests = (_request_or_error(each, aspect, guard, threshold, policy) for each in conversations)

        def ask(some: list[safety_pb2.ClassifyRequest]) -> Sequence[safety_pb2.ClassifyResult]:
            batch = safety_pb2.BatchClassifyRequest(requests=some)
            return self._connection.call(self._stub.BatchClassify, batch, timeout_seconds=timeout_seconds).results

        return [_outcome(each) for each in answered_batches(requests, ask, largest=LARGEST_BATCH)]

    def classify_many(
        self,
        conversations: Iterable[Conversation],
        *,
        aspect: Aspect | None = None,
        guard: str | None = None,
        threshold: float | None = None,
        policy: str | Policy | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Iterator[tuple[int, Verdict | EvalFleetError]]:
        """Yield (index of the conversation, its verdict or error), in the order in which they are ready.

        Conversations are read as fast as the service takes them, so there may be any number. A service that is
        restarted meanwhile is waited for, up to ``patience_seconds``; leaving the loop stops the guards' work.
        """
        requests = (_request_or_error(each, aspect, guard, threshold, policy) for each in conversations)

        def exchange(
            items: Iterator[tuple[int, safety_pb2.ClassifyRequest]],
        ) -> Iterator[safety_pb2.StreamClassifyResponse]:
            messages = (safety_pb2.StreamClassifyRequest(item_id=str(number), request=each) for number, each in items)
            return self._connection.exchange(self._stub.StreamClassify, messages)

        for index, outcome in answered_sendable_items(requests, exchange, patience_seconds=patience_seconds):
            yield index, _outcome(outcome)

    def classify_growing(
        self,
        conversation: Conversation,
        pieces: Iterable[str],
        *,
        every_characters: int | None = None,
        guard: str | None = None,
        threshold: float | None = None,
        policy: str | Policy | None = None,
    ) -> Iterator[RollingVerdict]:
        """Judge a response while it is being generated; yield a verdict now and then, and at last the final one.

        Until then SAFE says nothing of what is still to come; UNSAFE stays, whatever comes. Leave the loop to stop:
        ``pieces`` is read no further.

        Args:
            conversation: the turns before the response.
            pieces: the response's text, piece by piece, as it is generated; read in a thread of its own.
            every_characters: a verdict is due when so many characters are not judged yet, and at least an eighth of
                those that were; default: 200.
            guard: as in ``classify``.
            threshold: as in ``classify``.
            policy: as in ``classify``.
        """
        opening = safety_pb2.ResponseOpening(
            conversation=_conversation(conversation),
            guard=full_name("guards", guard) if guard else "",
            threshold=threshold,
            policy=_policy_name(policy),
            inline_policy=_own_policy(policy),
            verdict_every_characters=every_characters or 0,
        )
        failures: list[BaseException] = []

        def messages() -> Iterator[safety_pb2.StreamClassifyRequest]:
            yield safety_pb2.StreamClassifyRequest(item_id="response", opening=opening)
            try:
                for text in pieces:
                    piece = safety_pb2.ResponsePiece(text=text)
                    yield safety_pb2.StreamClassifyRequest(item_id="response", piece=piece)
            except Exception as error:
                # gRPC would swallow it in its own thread: kept for the caller's.
                failures.append(error)
                raise
            last = safety_pb2.ResponsePiece(last=True)
            yield safety_pb2.StreamClassifyRequest(item_id="response", piece=last)

        try:
            for each in self._connection.exchange(self._stub.StreamClassify, messages()):
                current = decoding.verdict(each.current_verdict) if each.HasField("current_verdict") else None
                yield RollingVerdict(_outcome(each), each.final, each.judged_characters, current)
                if each.final:
                    return
        finally:
            if failures:
                raise failures[0]

    def guards(self) -> tuple[Guard, ...]:
        """Return the guards of the service, ordered by name."""
        pages = self._connection.pages(
            self._stub.ListGuards,
            lambda token: safety_pb2.ListGuardsRequest(page_size=LARGEST_PAGE, page_token=token),
        )
        return tuple(decoding.guard(each) for page in pages for each in page.guards)

    def guard(self, name: str) -> Guard:
        """Return one guard; its name may be shortened to the part behind ``guards/``."""
        request = safety_pb2.GetGuardRequest(name=full_name("guards", name))
        return decoding.guard(self._connection.call(self._stub.GetGuard, request).guard)

    def policies(self) -> tuple[Policy, ...]:
        """Return the policies of the service, ordered by name."""
        pages = self._connection.pages(
            self._stub.ListPolicies,
            lambda token: safety_pb2.ListPoliciesRequest(page_size=LARGEST_PAGE, page_token=token),
        )
        return tuple(policies.from_message(each) for page in pages for each in page.policies)

    def policy(self, name: str) -> Policy:
        """Return one policy; its name may be shortened to the part behind ``policies/``."""
        request = safety_pb2.GetPolicyRequest(name=full_name("policies", name))
        return policies.from_message(self._connection.call(self._stub.GetPolicy, request).policy)


def _request(
    conversation: Conversation,
    aspect: Aspect | None,
    guard: str | None,
    threshold: float | None,
    policy: str | Policy | None,
) -> safety_pb2.ClassifyRequest:
    as_what = aspect or ("response" if conversation and conversation[-1][0] == "assistant" else "prompt")
    return safety_pb2.ClassifyRequest(
        conversation=_conversation(conversation),
        aspect=_ASPECTS[as_what],
        threshold=threshold,
        guard=full_name("guards", guard) if guard else "",
        policy=_policy_name(policy),
        inline_policy=_own_policy(policy),
    )


def _request_or_error(
    conversation: Conversation,
    aspect: Aspect | None,
    guard: str | None,
    threshold: float | None,
    policy: str | Policy | None,
) -> safety_pb2.ClassifyRequest | EvalFleetError:
    """Return the request, or what is wrong with this one of many: it must not keep the others from being judged."""
    try:
        return _request(conversation, aspect, guard, threshold, policy)
    except UnicodeEncodeError:
        return InvalidArgumentError("the conversation's text cannot be written as UTF-8", reason="TEXT_NOT_UTF8")


def _policy_name(policy: str | Policy | None) -> str:
    return full_name("policies", policy) if isinstance(policy, str) and policy else ""


def _own_policy(policy: str | Policy | None) -> safety_pb2.Policy | None:
    return policies.to_message(policy) if isinstance(policy, Policy) else None


def _conversation(turns: Conversation) -> common_pb2.Conversation:
    return common_pb2.Conversation(
        messages=[common_pb2.Message(role=_ROLES[role], content=text) for role, text in turns]
    )


def _outcome(
    message: safety_pb2.ClassifyResult | safety_pb2.StreamClassifyResponse | EvalFleetError,
) -> Verdict | EvalFleetError:
    """Translate one result of a batch or a stream; one that holds nothing is an error, never a verdict."""
    if isinstance(message, EvalFleetError):
        return message
    return decoding.verdict(message.verdict) if message.HasField("verdict") else from_status(message.status)
