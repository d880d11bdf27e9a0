"""Verdicts of a fleet's guard models."""

from collections.abc import Sequence
from typing import Literal

from evalfleet import decoding
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import Connection
from evalfleet.names import full_name
from evalfleet.results import Verdict
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

Aspect = Literal["prompt", "response"]
Role = Literal["system", "user", "assistant"]

_ASPECTS = {"prompt": safety_pb2.ASPECT_PROMPT, "response": safety_pb2.ASPECT_RESPONSE}
_ROLES = {
    "system": common_pb2.ROLE_SYSTEM,
    "user": common_pb2.ROLE_USER,
    "assistant": common_pb2.ROLE_ASSISTANT,
}


class Safety:
    """The safety service's judgement of single conversations."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = safety_pb2_grpc.SafetyServiceStub(connection.channel)

    def classify(
        self,
        conversation: Sequence[tuple[Role, str]],
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
        as_what = aspect or ("response" if conversation and conversation[-1][0] == "assistant" else "prompt")
        request = safety_pb2.ClassifyRequest(
            conversation=common_pb2.Conversation(
                messages=[common_pb2.Message(role=_ROLES[role], content=text) for role, text in conversation]
            ),
            aspect=_ASPECTS[as_what],
            guard=full_name("guards", guard) if guard else "",
            threshold=threshold,
        )
        return decoding.verdict(self._connection.call(self._stub.Classify, request).verdict)
