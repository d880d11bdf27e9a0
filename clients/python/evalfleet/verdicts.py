"""Verdicts of a fleet's guard models."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from evalfleet import decoding
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import LARGEST_PAGE, Connection
from evalfleet.errors import EvalFleetError, from_status
from evalfleet.names import full_name
from evalfleet.results import Guard, Verdict
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

LARGEST_BATCH = 256
BATCH_TIMEOUT_SECONDS = 300.0

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
    """The safety service's judgement of conversations."""

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
    ) -> Verdict:
        """Judge the last turn of a conversation.

        Args:
            conversation: (role, text) of each turn, oldest first.
            aspect: judge it as a ``prompt`` or as a ``response``; default: by the role of the last turn.
            guard: name of the guard; default: the service's.
            threshold: on the probability of a hazard, above 0 and up to 1; default: the guard's.
        """
        request = _request(conversation, aspect, guard, threshold)
        return decoding.verdict(self._connection.call(self._stub.Classify, request).verdict)

    def classify_batch(
        self,
        conversations: Sequence[Conversation],
        *,
        aspect: Aspect | None = None,
        guard: str | None = None,
        threshold: float | None = None,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
    ) -> list[Verdict | EvalFleetError]:
        """Judge the last turn of each conversation; one verdict or error each, in their order.

        Any number may be given; each call of the service carries up to 256.

        Args:
            conversations: (role, text) of each turn, oldest first.
            aspect: as in ``classify``.
            guard: as in ``classify``.
            threshold: as in ``classify``.
            timeout_seconds: longest call of the service.
        """
        outcomes: list[Verdict | EvalFleetError] = []
        for first in range(0, len(conversations), LARGEST_BATCH):
            some = conversations[first : first + LARGEST_BATCH]
            request = safety_pb2.BatchClassifyRequest(
                requests=[_request(each, aspect, guard, threshold) for each in some]
            )
            answer = self._connection.call(self._stub.BatchClassify, request, timeout_seconds=timeout_seconds)
            if len(answer.results) != len(some):
                raise EvalFleetError(
                    f"the safety service gave {len(answer.results)} results for {len(some)} requests",
                    reason="WRONG_RESULT_COUNT",
                )
            outcomes += [_outcome(each) for each in answer.results]
        return outcomes

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


def _request(
    conversation: Conversation, aspect: Aspect | None, guard: str | None, threshold: float | None
) -> safety_pb2.ClassifyRequest:
    as_what = aspect or ("response" if conversation and conversation[-1][0] == "assistant" else "prompt")
    return safety_pb2.ClassifyRequest(
        conversation=common_pb2.Conversation(
            messages=[common_pb2.Message(role=_ROLES[role], content=text) for role, text in conversation]
        ),
        aspect=_ASPECTS[as_what],
        guard=full_name("guards", guard) if guard else "",
        threshold=threshold,
    )


def _outcome(result: safety_pb2.ClassifyResult) -> Verdict | EvalFleetError:
    """Translate one result of a batch; one that holds nothing is an error, never a verdict."""
    return decoding.verdict(result.verdict) if result.HasField("verdict") else from_status(result.status)
