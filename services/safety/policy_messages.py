"""Translates between the contract's policies and the domain."""

from collections.abc import Collection
from typing import Final

from evalfleet.safety.v1 import safety_pb2

from services.safety.errors import invalid_field
from services.safety.judgement import Aspect, PolicyReference
from services.safety.policies import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    PolicyHazard,
    TruncationHandling,
)
from services.safety.policies.policy import PolicyFieldError

_ASPECTS: Final = {safety_pb2.ASPECT_PROMPT: Aspect.PROMPT, safety_pb2.ASPECT_RESPONSE: Aspect.RESPONSE}
_ASPECT_NUMBERS: Final = {aspect: number for number, aspect in _ASPECTS.items()}
# What is not set comes first; it means the same as what follows it.
_COMBINATIONS: Final = {
    safety_pb2.COMBINATION_UNSPECIFIED: Combination.ANY_UNSAFE,
    safety_pb2.COMBINATION_ANY_UNSAFE: Combination.ANY_UNSAFE,
    safety_pb2.COMBINATION_MAJORITY: Combination.MAJORITY,
}
_ERROR_HANDLINGS: Final = {
    safety_pb2.ERROR_HANDLING_UNSPECIFIED: ErrorHandling.ERROR,
    safety_pb2.ERROR_HANDLING_ERROR: ErrorHandling.ERROR,
    safety_pb2.ERROR_HANDLING_UNSAFE: ErrorHandling.UNSAFE,
}
_CONTROVERSIAL_HANDLINGS: Final = {
    safety_pb2.CONTROVERSIAL_HANDLING_UNSPECIFIED: ControversialHandling.KEEP,
    safety_pb2.CONTROVERSIAL_HANDLING_KEEP: ControversialHandling.KEEP,
    safety_pb2.CONTROVERSIAL_HANDLING_UNSAFE: ControversialHandling.UNSAFE,
    safety_pb2.CONTROVERSIAL_HANDLING_SAFE: ControversialHandling.SAFE,
}
_TRUNCATION_HANDLINGS: Final = {
    safety_pb2.TRUNCATION_HANDLING_UNSPECIFIED: TruncationHandling.ERROR,
    safety_pb2.TRUNCATION_HANDLING_ERROR: TruncationHandling.ERROR,
    safety_pb2.TRUNCATION_HANDLING_JUDGED_PART: TruncationHandling.JUDGED_PART,
}
_COMBINATION_NUMBERS: Final = {meaning: number for number, meaning in _COMBINATIONS.items()}
_ERROR_HANDLING_NUMBERS: Final = {meaning: number for number, meaning in _ERROR_HANDLINGS.items()}
_CONTROVERSIAL_NUMBERS: Final = {meaning: number for number, meaning in _CONTROVERSIAL_HANDLINGS.items()}
_TRUNCATION_NUMBERS: Final = {meaning: number for number, meaning in _TRUNCATION_HANDLINGS.items()}
_PATH: Final = "inline_policy"


def inline_policy(message: safety_pb2.Policy) -> Policy:
    """Read a policy that came with a request.

    Raises:
        InvalidArgumentError: names the field that is wrong.
    """
    for field, value in (("name", message.name), ("digest", message.digest), ("problem", message.problem)):
        if value:
            raise invalid_field(f"{_PATH}.{field}", "must be empty in a policy of your own", reason="POLICY_INVALID")
    choices: tuple[tuple[str, int, Collection[int]], ...] = (
        ("combination", message.combination, _COMBINATIONS),
        ("on_error", message.on_error, _ERROR_HANDLINGS),
        ("on_controversial", message.on_controversial, _CONTROVERSIAL_HANDLINGS),
        ("on_truncated", message.on_truncated, _TRUNCATION_HANDLINGS),
    )
    for field, number, known in choices:
        if number not in known:
            raise invalid_field(f"{_PATH}.{field}", f"{number} is no value of this version", reason="POLICY_INVALID")
    for index, aspect in enumerate(message.aspects):
        if aspect not in _ASPECTS:
            raise invalid_field(
                f"{_PATH}.aspects[{index}]", "must be ASPECT_PROMPT or ASPECT_RESPONSE", reason="POLICY_INVALID"
            )
    try:
        return Policy(
            version=message.version,
            description=message.description,
            aspects=tuple(_ASPECTS[each] for each in message.aspects) or (Aspect.PROMPT, Aspect.RESPONSE),
            guards=tuple(message.guards),
            combination=_COMBINATIONS[message.combination],
            threshold=message.threshold if message.HasField("threshold") else None,
            hazards=tuple(
                PolicyHazard(each.code, each.threshold if each.HasField("threshold") else None)
                for each in message.hazards
            ),
            on_error=_ERROR_HANDLINGS[message.on_error],
            on_controversial=_CONTROVERSIAL_HANDLINGS[message.on_controversial],
            on_truncated=_TRUNCATION_HANDLINGS[message.on_truncated],
        )
    except PolicyFieldError as error:
        raise invalid_field(f"{_PATH}.{error.field}", error.problem, reason="POLICY_INVALID") from error


def policy_to_proto(policy: Policy, problem: str) -> safety_pb2.Policy:
    """Return a policy as the contract's message.

    Args:
        policy: the policy.
        problem: why it cannot be applied here; empty if it can.
    """
    return safety_pb2.Policy(
        name=policy.name,
        version=policy.version,
        description=policy.description,
        aspects=[_ASPECT_NUMBERS[aspect] for aspect in policy.aspects],
        guards=policy.guards,
        combination=_COMBINATION_NUMBERS[policy.combination],
        threshold=policy.threshold,
        hazards=[safety_pb2.PolicyHazard(code=each.code, threshold=each.threshold) for each in policy.hazards],
        on_error=_ERROR_HANDLING_NUMBERS[policy.on_error],
        on_controversial=_CONTROVERSIAL_NUMBERS[policy.on_controversial],
        on_truncated=_TRUNCATION_NUMBERS[policy.on_truncated],
        digest=policy.reference.digest,
        problem=problem,
    )


def policy_reference_to_proto(reference: PolicyReference) -> safety_pb2.PolicyReference:
    """Return which policy was applied as the contract's message."""
    return safety_pb2.PolicyReference(name=reference.name, version=reference.version, digest=reference.digest)
