"""Translates between the safety contract's messages and the domain."""

from typing import Final

from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2

from services.runtime.errors import FleetError, to_status
from services.runtime.usage_messages import usage_to_proto
from services.safety.conversation import choose_turn
from services.safety.errors import invalid_field
from services.safety.judgement import (
    NO_USAGE,
    Aspect,
    CategoryScore,
    Decision,
    GuardDescription,
    GuardReference,
    JudgedTurn,
    Role,
    Turn,
    Verdict,
)
from services.safety.policy_messages import policy_reference_to_proto

_ROLES: Final = {
    common_pb2.ROLE_SYSTEM: Role.SYSTEM,
    common_pb2.ROLE_USER: Role.USER,
    common_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_ASPECTS: Final = {safety_pb2.ASPECT_PROMPT: Aspect.PROMPT, safety_pb2.ASPECT_RESPONSE: Aspect.RESPONSE}
_ASPECT_NUMBERS: Final = {aspect: number for number, aspect in _ASPECTS.items()}
_DECISIONS: Final = {
    Decision.SAFE: safety_pb2.DECISION_SAFE,
    Decision.UNSAFE: safety_pb2.DECISION_UNSAFE,
    Decision.CONTROVERSIAL: safety_pb2.DECISION_CONTROVERSIAL,
    Decision.ERROR: safety_pb2.DECISION_ERROR,
}


def turn_from_proto(request: safety_pb2.ClassifyRequest) -> JudgedTurn:
    """Return what a request wants judged.

    Raises:
        InvalidArgumentError: names the field that is wrong.
    """
    aspect = _ASPECTS.get(request.aspect)
    if aspect is None:
        raise invalid_field("aspect", "must be ASPECT_PROMPT or ASPECT_RESPONSE", reason="ASPECT_MISSING")
    return choose_turn(
        turns_from_proto(request.conversation),
        request.judged_turn if request.HasField("judged_turn") else None,
        aspect,
        request.threshold if request.HasField("threshold") else None,
    )


def turns_from_proto(conversation: common_pb2.Conversation) -> list[Turn]:
    """Return the turns of a conversation.

    Raises:
        InvalidArgumentError: a turn has no role; names the field.
    """
    turns = []
    for index, message in enumerate(conversation.messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise invalid_field(
                f"conversation.messages[{index}].role",
                "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT",
                reason="ROLE_MISSING",
            )
        turns.append(Turn(role, message.content))
    return turns


def verdict_to_proto(verdict: Verdict) -> safety_pb2.Verdict:
    """Return a verdict as the contract's message."""
    return safety_pb2.Verdict(
        decision=_DECISIONS[verdict.decision],
        unsafe_probability=verdict.unsafe_probability,
        categories=[_score_to_proto(each) for each in verdict.categories],
        unmapped=verdict.unmapped,
        guard=_reference_to_proto(verdict.guard),
        threshold_applied=verdict.threshold,
        truncated=verdict.truncated,
        windows=verdict.windows,
        error_reason=verdict.error_reason,
        refusal=verdict.refusal,
        over_refusal=verdict.over_refusal,
        cached=verdict.cached,
        policy=policy_reference_to_proto(verdict.policy) if verdict.policy else None,
        guard_verdicts=[verdict_to_proto(each) for each in verdict.guard_verdicts],
        unjudged_reason=verdict.unjudged_reason,
        usage=usage_to_proto(verdict.usage) if verdict.usage != NO_USAGE else None,
    )


def result_to_proto(outcome: Verdict | FleetError) -> safety_pb2.ClassifyResult:
    """Return what became of one request of a batch as the contract's message."""
    if isinstance(outcome, FleetError):
        return safety_pb2.ClassifyResult(status=to_status(outcome))
    return safety_pb2.ClassifyResult(verdict=verdict_to_proto(outcome))


def guard_to_proto(about: GuardDescription) -> safety_pb2.Guard:
    """Return a guard as the contract's message."""
    return safety_pb2.Guard(
        name=about.name,
        description=about.description,
        reference=_reference_to_proto(about.reference),
        aspects=[_ASPECT_NUMBERS[aspect] for aspect in about.aspects],
        categories=[
            safety_pb2.HazardCategory(
                taxonomy=category.taxonomy,
                taxonomy_version=category.taxonomy_version,
                code=category.code,
                title=category.title,
                ailuminate_code=category.ailuminate_code,
            )
            for category in about.categories
        ],
        default_threshold=about.default_threshold,
        max_tokens=about.max_tokens or 0,
    )


def _score_to_proto(score: CategoryScore) -> safety_pb2.CategoryScore:
    return safety_pb2.CategoryScore(
        taxonomy=score.category.taxonomy,
        taxonomy_version=score.category.taxonomy_version,
        code=score.category.code,
        probability=score.probability,
        ailuminate_code=score.category.ailuminate_code,
    )


def _reference_to_proto(reference: GuardReference) -> safety_pb2.GuardReference:
    return safety_pb2.GuardReference(
        name=reference.name,
        weights_digest=reference.weights_digest,
        template_digest=reference.template_digest,
        calibration_digest=reference.calibration_digest,
        engine=reference.engine,
        dtype=reference.dtype,
    )
