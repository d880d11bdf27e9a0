"""Translate between the scoring contract's messages and the domain."""

import json
from collections.abc import Mapping
from typing import Final

from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2
from evalfleet.scoring.v1 import scoring_pb2
from google.protobuf import json_format, struct_pb2
from pydantic import BaseModel, JsonValue

from services.runtime.errors import FieldViolation, to_status
from services.runtime.usage_messages import usage_to_proto
from services.scoring.contract import (
    AnyScorer,
    ChoicesOutput,
    Output,
    SamplesOutput,
    ScoringItem,
    TextOutput,
    TokensOutput,
    VerdictOutput,
    is_async,
)
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.judging import Judged, Outcome
from services.scoring.libraries import library_version
from services.scoring.parameters import describe_fields
from services.scoring.registry import COLLECTION, ScorerReference, reference_of

MAX_SAMPLES: Final = 1000
"""Texts of one request; as the proto says."""

# Whatever is not listed, a new enum value included, is an error: safety fails closed.
_DECISIONS = {
    safety_pb2.DECISION_SAFE: "safe",
    safety_pb2.DECISION_UNSAFE: "unsafe",
    safety_pb2.DECISION_CONTROVERSIAL: "controversial",
}


def item_from_proto(request: scoring_pb2.ScoreRequest) -> ScoringItem:
    """Return what is known of the question."""
    return ScoringItem(
        targets=tuple(request.targets),
        gold_indices=tuple(request.gold_indices),
        prompt=request.prompt,
        details=details_from_proto(request.details) if request.HasField("details") else {},
    )


def output_from_proto(request: scoring_pb2.ScoreRequest) -> Output:
    """Return what the model gave.

    Raises:
        InvalidScoreRequestError: the request holds no output.
    """
    match request.WhichOneof("output"):
        case "text":
            return TextOutput(request.text)
        case "choices":
            given = request.choices
            return ChoicesOutput(
                tuple(given.log_likelihoods), tuple(given.choices), tuple(given.unconditional_log_likelihoods)
            )
        case "samples":
            if len(request.samples.texts) > MAX_SAMPLES:
                raise InvalidScoreRequestError(
                    request.scorer,
                    FieldViolation("samples", f"has {len(request.samples.texts)} texts; give at most {MAX_SAMPLES}"),
                )
            return SamplesOutput(tuple(request.samples.texts))
        case "token_scores":
            tokens = request.token_scores
            count = tokens.token_count if tokens.HasField("token_count") else None
            return TokensOutput(tuple(tokens.log_likelihoods), tokens.text, count)
        case "verdict":
            return _verdict_from_proto(request.verdict)
        case _:
            wanted = "set text, choices, samples, token_scores or verdict; an empty text is set as text: ''"
            raise InvalidScoreRequestError(request.scorer, FieldViolation("output", wanted))


def _verdict_from_proto(verdict: safety_pb2.Verdict) -> VerdictOutput:
    return VerdictOutput(
        decision=_DECISIONS.get(verdict.decision, "error"),
        error_reason=verdict.error_reason,
        is_truncated=verdict.truncated,
        is_partial=any(
            each.truncated or each.unjudged_reason or each.decision not in _DECISIONS
            for each in (verdict, *verdict.guard_verdicts)
        ),
        categories=frozenset(code for each in verdict.categories for code in (each.code, each.ailuminate_code) if code),
        has_unknown_category=verdict.unmapped,
        refusal=verdict.refusal if verdict.HasField("refusal") else None,
    )


def parameters_from_proto(parameters: struct_pb2.Struct) -> Mapping[str, object]:
    """Return a Struct as Python values, NaN and infinities included (protobuf's own JSON refuses those)."""
    return {name: _plain(value) for name, value in parameters.fields.items()}


def details_from_proto(details: struct_pb2.Struct) -> dict[str, JsonValue]:
    """Return a Struct as JSON values; a number without a fraction becomes an ``int``, which Structs do not have."""
    return {name: _json_value(value) for name, value in details.fields.items()}


def _json_value(value: struct_pb2.Value) -> JsonValue:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "list_value":
            return [_json_value(each) for each in value.list_value.values]
        case "struct_value":
            return details_from_proto(value.struct_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _plain(value: struct_pb2.Value) -> object:
    match value.WhichOneof("kind"):
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "struct_value":
            return parameters_from_proto(value.struct_value)
        case None | "null_value":
            return None
        case kind:
            plain: object = getattr(value, kind)
            return plain


def response_to_proto(judged: Judged) -> scoring_pb2.ScoreResponse:
    """Return a score as the contract's message."""
    score = judged.score
    return scoring_pb2.ScoreResponse(
        metrics=score.metrics,
        extracted_answer=score.extracted_answer,
        scorer=reference_to_proto(judged.reference.with_judges(score.decided_by)),
        usage=None if score.usage is None else usage_to_proto(score.usage),
        cached=score.cached,
    )


def result_to_proto(outcome: Outcome) -> scoring_pb2.ScoreResult:
    """Return what became of one request of a batch; never raises, for its neighbours would pay for it."""
    if isinstance(outcome, BaseException):
        return scoring_pb2.ScoreResult(status=to_status(outcome))
    try:
        return scoring_pb2.ScoreResult(response=response_to_proto(outcome))
    except Exception as error:  # noqa: BLE001 - a score that no message can hold is a bug of its scorer alone
        return scoring_pb2.ScoreResult(status=to_status(error))


def scorer_to_proto(scorer: AnyScorer) -> scoring_pb2.Scorer:
    """Describe a scorer; its reference is the one at default parameters."""
    about = scorer.about
    return scoring_pb2.Scorer(
        name=COLLECTION + about.name,
        description=about.description,
        reference=reference_to_proto(reference_of(scorer, scorer.parameters_type())),
        parameters=_fields_to_proto(scorer.parameters_type),
        metrics=[
            scoring_pb2.Metric(
                name=metric.name, description=metric.description, higher_is_better=metric.higher_is_better
            )
            for metric in about.metrics
        ],
        details=[] if about.details is None else _fields_to_proto(about.details),
        reads_prompt=about.reads_prompt,
        takes_long=about.is_heavy or is_async(scorer),
        libraries=[scoring_pb2.Library(name=each, version=library_version(each)) for each in sorted(about.libraries)],
    )


def _fields_to_proto(model: type[BaseModel]) -> list[scoring_pb2.ScorerParameter]:
    return [
        scoring_pb2.ScorerParameter(
            name=field.name,
            type=field.type,
            description=field.description,
            default_value=None
            if field.is_required
            else json_format.Parse(json.dumps(field.default), struct_pb2.Value()),
        )
        for field in describe_fields(model)
    ]


def reference_to_proto(reference: ScorerReference) -> common_pb2.JudgeReference:
    """Name the exact scorer."""
    return common_pb2.JudgeReference(name=reference.name, version=reference.version, digest=reference.digest)
