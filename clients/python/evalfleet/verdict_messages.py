"""Between conversations and verdicts as plain values and the safety service's messages."""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, TypedDict, Unpack

from evalfleet import decoding, policies
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import LARGEST_PAGE
from evalfleet.errors import EvalFleetError, InvalidArgumentError, from_status
from evalfleet.message_sizes import fitting
from evalfleet.names import full_name
from evalfleet.results import Policy, RollingVerdict, Verdict
from evalfleet.safety.v1 import safety_pb2
from evalfleet.window import Sent

LARGEST_BATCH: Final = 256
BATCH_TIMEOUT_SECONDS: Final = 300.0
PATIENCE_SECONDS: Final = 60.0
SILENCE_SECONDS: Final = 360.0
"""Longer than an item of a stream may take, by default."""
GROWING_ITEM_ID: Final = "response"

Aspect = Literal["prompt", "response"]
Role = Literal["system", "user", "assistant"]
Conversation: TypeAlias = Sequence[tuple[Role, str]]
"""(role, text) of each turn, oldest first; the last one is judged."""
StreamOutcome: TypeAlias = safety_pb2.StreamClassifyResponse | safety_pb2.StreamClassifyOutcome

_ASPECTS = {"prompt": safety_pb2.ASPECT_PROMPT, "response": safety_pb2.ASPECT_RESPONSE}
_ROLES = {
    "system": common_pb2.ROLE_SYSTEM,
    "user": common_pb2.ROLE_USER,
    "assistant": common_pb2.ROLE_ASSISTANT,
}


class GuardOptions(TypedDict, total=False):
    """Who judges and how strictly: see ``evalfleet.verdicts.Safety``."""

    guard: str | None
    threshold: float | None
    policy: str | Policy | None


class ClassifyOptions(GuardOptions, total=False):
    """Also as what the last turn is judged."""

    aspect: Aspect | None


def classify_request(conversation: Conversation, **options: Unpack[ClassifyOptions]) -> safety_pb2.ClassifyRequest:
    """Ask for a verdict on the last turn."""
    guard, policy = options.get("guard"), options.get("policy")
    by_role = "response" if conversation and conversation[-1][0] == "assistant" else "prompt"
    return safety_pb2.ClassifyRequest(
        conversation=conversation_message(conversation),
        aspect=_ASPECTS[options.get("aspect") or by_role],
        threshold=options.get("threshold"),
        guard=full_name("guards", guard) if guard else "",
        policy=_policy_name(policy),
        inline_policy=_own_policy(policy),
    )


def classify_request_or_error(
    conversation: Conversation | EvalFleetError, **options: Unpack[ClassifyOptions]
) -> safety_pb2.ClassifyRequest | EvalFleetError:
    """Return the request, or what is wrong with this one of many: it must not keep the others from being judged."""
    if isinstance(conversation, EvalFleetError):
        return conversation
    try:
        return fitting(classify_request(conversation, **options))
    except UnicodeEncodeError:
        return InvalidArgumentError("the conversation's text cannot be written as UTF-8", reason="TEXT_NOT_UTF8")
    except (TypeError, ValueError, KeyError) as error:
        return InvalidArgumentError(
            f"the conversation cannot be sent: {type(error).__name__}: {error}", reason="CONVERSATION_INVALID"
        )


def conversation_message(turns: Conversation) -> common_pb2.Conversation:
    """Translate a conversation.

    Raises:
        KeyError: a role is none that there is.
        UnicodeEncodeError: a text has half a character.
    """
    return common_pb2.Conversation(
        messages=[common_pb2.Message(role=_ROLES[role], content=text) for role, text in turns]
    )


def stream_request(items: Sequence[Sent[safety_pb2.ClassifyRequest]]) -> safety_pb2.StreamClassifyRequest:
    """Put items on a stream, in one message."""
    first, *others = items
    more = [safety_pb2.StreamClassifyItem(item_id=each.item_id, request=each.request) for each in others]
    return safety_pb2.StreamClassifyRequest(item_id=first.item_id, request=first.request, more=more)


def stream_outcomes(message: safety_pb2.StreamClassifyResponse) -> tuple[StreamOutcome, ...]:
    """Return the outcomes in a message."""
    return (message, *message.more)


def error_in(message: safety_pb2.ClassifyResult | StreamOutcome) -> EvalFleetError | None:
    """Return why there is no verdict; one that holds nothing is an error, never a verdict."""
    return None if message.HasField("verdict") else from_status(message.status)


def outcome(message: safety_pb2.ClassifyResult | StreamOutcome | EvalFleetError) -> Verdict | EvalFleetError:
    """Translate one result of a batch or a stream."""
    if isinstance(message, EvalFleetError):
        return message
    return error_in(message) or decoding.verdict(message.verdict)


def opening(
    conversation: Conversation, every_characters: int | None, **options: Unpack[GuardOptions]
) -> safety_pb2.StreamClassifyRequest:
    """Begin a response that grows."""
    guard, policy = options.get("guard"), options.get("policy")
    return safety_pb2.StreamClassifyRequest(
        item_id=GROWING_ITEM_ID,
        opening=safety_pb2.ResponseOpening(
            conversation=conversation_message(conversation),
            guard=full_name("guards", guard) if guard else "",
            threshold=options.get("threshold"),
            policy=_policy_name(policy),
            inline_policy=_own_policy(policy),
            verdict_every_characters=every_characters or 0,
        ),
    )


def piece(text: str) -> safety_pb2.StreamClassifyRequest:
    """Let the response grow."""
    return safety_pb2.StreamClassifyRequest(item_id=GROWING_ITEM_ID, piece=safety_pb2.ResponsePiece(text=text))


def last_piece() -> safety_pb2.StreamClassifyRequest:
    """End the response."""
    return safety_pb2.StreamClassifyRequest(item_id=GROWING_ITEM_ID, piece=safety_pb2.ResponsePiece(last=True))


def rolling_verdict(message: safety_pb2.StreamClassifyResponse) -> RollingVerdict:
    """Translate a verdict on a response so far."""
    current = decoding.verdict(message.current_verdict) if message.HasField("current_verdict") else None
    return RollingVerdict(outcome(message), message.final, message.judged_characters, current)


def guards_request(page_token: str) -> safety_pb2.ListGuardsRequest:
    """Ask for a page of guards."""
    return safety_pb2.ListGuardsRequest(page_size=LARGEST_PAGE, page_token=page_token)


def policies_request(page_token: str) -> safety_pb2.ListPoliciesRequest:
    """Ask for a page of policies."""
    return safety_pb2.ListPoliciesRequest(page_size=LARGEST_PAGE, page_token=page_token)


def _policy_name(policy: str | Policy | None) -> str:
    return full_name("policies", policy) if isinstance(policy, str) and policy else ""


def _own_policy(policy: str | Policy | None) -> safety_pb2.Policy | None:
    return policies.to_message(policy) if isinstance(policy, Policy) else None
