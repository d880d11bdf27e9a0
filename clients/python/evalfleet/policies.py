"""Between policies as plain values and the safety service's messages."""

from typing import TypeVar

from evalfleet import decoding
from evalfleet.errors import InvalidArgumentError
from evalfleet.names import full_name
from evalfleet.results import Policy, PolicyHazard
from evalfleet.safety.v1 import safety_pb2

_NumberT = TypeVar("_NumberT")

_ASPECTS = {"prompt": safety_pb2.ASPECT_PROMPT, "response": safety_pb2.ASPECT_RESPONSE}
_COMBINATIONS = {"any-unsafe": safety_pb2.COMBINATION_ANY_UNSAFE, "majority": safety_pb2.COMBINATION_MAJORITY}
_ERROR_HANDLINGS = {"error": safety_pb2.ERROR_HANDLING_ERROR, "unsafe": safety_pb2.ERROR_HANDLING_UNSAFE}
_CONTROVERSIAL_HANDLINGS = {
    "keep": safety_pb2.CONTROVERSIAL_HANDLING_KEEP,
    "unsafe": safety_pb2.CONTROVERSIAL_HANDLING_UNSAFE,
    "safe": safety_pb2.CONTROVERSIAL_HANDLING_SAFE,
}
_TRUNCATION_HANDLINGS = {
    "error": safety_pb2.TRUNCATION_HANDLING_ERROR,
    "judged-part": safety_pb2.TRUNCATION_HANDLING_JUDGED_PART,
}


def from_message(message: safety_pb2.Policy) -> Policy:
    """Translate a policy; what this version does not know of it is told by its number."""
    return Policy(
        hazards=tuple(
            PolicyHazard(each.code, each.threshold if each.HasField("threshold") else None) for each in message.hazards
        ),
        threshold=message.threshold if message.HasField("threshold") else None,
        guards=tuple(message.guards),
        combination=_name(_COMBINATIONS, message.combination),
        on_error=_name(_ERROR_HANDLINGS, message.on_error),
        on_controversial=_name(_CONTROVERSIAL_HANDLINGS, message.on_controversial),
        on_truncated=_name(_TRUNCATION_HANDLINGS, message.on_truncated),
        aspects=decoding.aspects(message.aspects),
        version=message.version,
        description=message.description,
        name=message.name,
        digest=message.digest,
        problem=message.problem,
    )


def to_message(policy: Policy) -> safety_pb2.Policy:
    """Translate a policy of the caller's own.

    Raises:
        InvalidArgumentError: one of its words is none that there is.
    """
    return safety_pb2.Policy(
        version=policy.version,
        description=policy.description,
        aspects=[_number("aspects", _ASPECTS, each) for each in policy.aspects],
        guards=[full_name("guards", each) for each in policy.guards],
        combination=_number("combination", _COMBINATIONS, policy.combination),
        threshold=policy.threshold,
        hazards=[safety_pb2.PolicyHazard(code=each.code, threshold=each.threshold) for each in policy.hazards],
        on_error=_number("on_error", _ERROR_HANDLINGS, policy.on_error),
        on_controversial=_number("on_controversial", _CONTROVERSIAL_HANDLINGS, policy.on_controversial),
        on_truncated=_number("on_truncated", _TRUNCATION_HANDLINGS, policy.on_truncated),
        name=policy.name,
        digest=policy.digest,
        problem=policy.problem,
    )


def _number(field: str, known: dict[str, _NumberT], word: str) -> _NumberT:
    if word not in known:
        raise InvalidArgumentError(
            f"{field} of a policy: {word!r} must be one of {', '.join(known)}", reason="POLICY_INVALID"
        )
    return known[word]


def _name(known: dict[str, _NumberT], number: object) -> str:
    return next((word for word, each in known.items() if each == number), str(number))
