"""What the scoring service says, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf import json_format

from evalfleet.common.v1 import common_pb2
from evalfleet.scoring.v1 import scoring_pb2


@dataclass(frozen=True, slots=True)
class ScorerReference:
    """Which exact scorer judged: its resource name, its version, and a digest of all that decides its scores."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one output.

    ``metrics`` has the value of each metric of the scorer, most from 0 (wrong) to 1 (right); ``extracted_answer`` is
    what was taken for the model's answer, ``None`` if nothing was. Of scorers that ask models, ``computed_tokens`` is
    what they computed for it, and ``is_cached`` says that it was nothing.
    """

    metrics: Mapping[str, float]
    extracted_answer: str | None
    scorer: ScorerReference
    computed_tokens: int = 0
    is_cached: bool = False


@dataclass(frozen=True, slots=True)
class ScorerField:
    """A parameter of a scorer, or a detail that it reads of an item; ``default`` is what it is when absent."""

    name: str
    type: str
    description: str
    is_required: bool
    default: object


@dataclass(frozen=True, slots=True)
class ScorerMetric:
    """What a value of a scorer means."""

    name: str
    description: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Scorer:
    """A judge of outputs; ``reference`` is the one at default parameters, and one that takes long may need seconds.

    ``libraries`` has the versions of those whose code decides its scores, too; of the ones that the parameters use they
    are part of the digest.
    """

    name: str
    description: str
    reference: ScorerReference
    parameters: tuple[ScorerField, ...]
    metrics: tuple[ScorerMetric, ...]
    details: tuple[ScorerField, ...]
    reads_prompt: bool
    takes_long: bool = False
    libraries: Mapping[str, str] = field(default_factory=dict)


def score_from_message(message: scoring_pb2.ScoreResponse) -> Score:
    """Translate a score."""
    return Score(
        metrics=dict(message.metrics),
        extracted_answer=message.extracted_answer if message.HasField("extracted_answer") else None,
        scorer=_reference(message.scorer),
        computed_tokens=message.usage.computed_prompt_tokens + message.usage.computed_completion_tokens,
        is_cached=message.cached,
    )


def scorer_from_message(message: scoring_pb2.Scorer) -> Scorer:
    """Translate a scorer."""
    return Scorer(
        name=message.name,
        description=message.description,
        reference=_reference(message.reference),
        parameters=tuple(_field(each) for each in message.parameters),
        metrics=tuple(ScorerMetric(each.name, each.description, each.higher_is_better) for each in message.metrics),
        details=tuple(_field(each) for each in message.details),
        reads_prompt=message.reads_prompt,
        takes_long=message.takes_long,
        libraries={each.name: each.version for each in message.libraries},
    )


def _reference(message: common_pb2.JudgeReference) -> ScorerReference:
    return ScorerReference(message.name, message.version, message.digest)


def _field(message: scoring_pb2.ScorerParameter) -> ScorerField:
    has_default = message.HasField("default_value")
    return ScorerField(
        name=message.name,
        type=message.type,
        description=message.description,
        is_required=not has_default,
        default=json_format.MessageToDict(message.default_value) if has_default else None,
    )
