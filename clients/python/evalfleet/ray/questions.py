"""What a bulk job asks of each row: to classify, to score or to generate, and the columns that it answers with."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import pyarrow as pa

from evalfleet.answers import Answer, Prompt, Sampling
from evalfleet.conversation_rows import conversation_of, turns_of
from evalfleet.errors import EvalFleetError, InvalidArgumentError
from evalfleet.fleet import Fleet
from evalfleet.ray.row_outcomes import Row, outcomes
from evalfleet.results import Decision, Verdict
from evalfleet.scorer_results import Score
from evalfleet.scores import ScorableOutput
from evalfleet.scoring.v1 import scoring_pb2
from evalfleet.verdicts import Aspect, Conversation

ResultT = TypeVar("ResultT")

ERROR_FIELDS = (("error_reason", pa.string()), ("error_message", pa.string()))
"""Columns of every answer; not null exactly in rows that have no result."""
_CATEGORY = pa.struct(
    [("taxonomy", pa.string()), ("code", pa.string()), ("ailuminate_code", pa.string()), ("probability", pa.float64())]
)


@dataclass(frozen=True, slots=True)
class Asking:
    """How hard a fleet is asked: rows in flight at once, and seconds that a service may be away."""

    window: int = 64
    patience_seconds: float = 60.0


class Question(Protocol):
    """What is asked of each row; sent to the workers, so it is plain and small."""

    kind: ClassVar[str]
    service: ClassVar[str]

    @property
    def fields(self) -> Sequence[tuple[str, pa.DataType]]:
        """The columns of an answer, before ``ERROR_FIELDS``."""
        ...

    @property
    def inputs(self) -> Mapping[str, str]:
        """What is read of a row → the column that holds it."""
        ...

    def answers(self, fleet: Fleet, rows: Iterable[Row], asking: Asking) -> Iterator[dict[str, Any]]:
        """Yield the columns of each row, in the order of the rows, which are read as fast as they are answered.

        Raises:
            EvalFleetError: the service is away, or refuses the question as a whole.
        """
        ...


@dataclass(frozen=True, slots=True)
class ClassifyQuestion:
    """Judge the safety of each row: ``text`` (and ``prompt``), ``messages`` or ``conversation``.

    Attributes:
        guard, policy, threshold, aspect: as in ``Safety.classify``; empty or ``None``: the service's default.
        columns: what is read → the input's column, where that has another name: ``{"text": "answer"}``.
    """

    guard: str = ""
    policy: str = ""
    threshold: float | None = None
    aspect: Aspect | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    kind: ClassVar[str] = "classify"
    service: ClassVar[str] = "safety"

    @property
    def fields(self) -> Sequence[tuple[str, pa.DataType]]:
        """A verdict."""
        return (
            ("decision", pa.string()),
            ("unsafe_probability", pa.float64()),
            ("categories", pa.list_(_CATEGORY)),
            ("threshold", pa.float64()),
            ("guard", pa.string()),
            ("policy", pa.string()),
            ("truncated", pa.bool_()),
        )

    @property
    def inputs(self) -> Mapping[str, str]:
        """See ``Question.inputs``."""
        return named_columns(("text", "prompt", "messages", "conversation"), self.columns)

    def answers(self, fleet: Fleet, rows: Iterable[Row], asking: Asking) -> Iterator[dict[str, Any]]:
        """See ``Question.answers``."""

        def ask(
            conversations: Iterator[Conversation | EvalFleetError],
        ) -> Iterator[tuple[int, Verdict | EvalFleetError]]:
            return fleet.safety.classify_many(
                conversations,
                aspect=self.aspect,
                guard=self.guard or None,
                policy=self.policy or None,
                threshold=self.threshold,
                patience_seconds=asking.patience_seconds,
                in_order=True,
                window=asking.window,
            )

        for outcome in outcomes(rows, conversation_of, ask):
            yield _told(outcome, _verdict_columns)


@dataclass(frozen=True, slots=True)
class ScoreQuestion:
    """Score each row: the fields of ``ScoreRequest`` that it has, such as ``text`` and ``targets``.

    Attributes:
        scorer: of rows that name none.
        parameters: of the scorer.
        columns: field of ``ScoreRequest`` → the input's column, where that has another name.
    """

    scorer: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    kind: ClassVar[str] = "score"
    service: ClassVar[str] = "scoring"

    @property
    def fields(self) -> Sequence[tuple[str, pa.DataType]]:
        """A score."""
        return (
            ("metrics", pa.map_(pa.string(), pa.float64())),
            ("extracted_answer", pa.string()),
            ("scorer", pa.string()),
            ("scorer_digest", pa.string()),
        )

    @property
    def inputs(self) -> Mapping[str, str]:
        """See ``Question.inputs``."""
        return named_columns([each.name for each in scoring_pb2.ScoreRequest.DESCRIPTOR.fields], self.columns)

    def answers(self, fleet: Fleet, rows: Iterable[Row], asking: Asking) -> Iterator[dict[str, Any]]:
        """See ``Question.answers``."""

        def ask(outputs: Iterator[ScorableOutput | EvalFleetError]) -> Iterator[tuple[int, Score | EvalFleetError]]:
            return fleet.scoring.score_many(
                outputs,
                scorer=self.scorer,
                parameters=self.parameters,
                patience_seconds=asking.patience_seconds,
                in_order=True,
                window=asking.window,
            )

        for outcome in outcomes(rows, _output, ask):
            yield _told(outcome, _score_columns)


@dataclass(frozen=True, slots=True)
class GenerateQuestion:
    """Let a model answer each row: ``prompt`` (and ``system``), or ``messages``.

    Attributes:
        model: name of a registered model.
        sampling: how tokens are chosen.
        is_raw: prompts go to the model as they are, without its chat template.
        columns: what is read → the input's column, where that has another name.
    """

    model: str
    sampling: Sampling = field(default_factory=Sampling)
    is_raw: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)

    kind: ClassVar[str] = "generate"
    service: ClassVar[str] = "generation"

    @property
    def fields(self) -> Sequence[tuple[str, pa.DataType]]:
        """An answer."""
        return (
            ("answer", pa.string()),
            ("finish_reason", pa.string()),
            ("prompt_tokens", pa.int64()),
            ("completion_tokens", pa.int64()),
            ("model_digest", pa.string()),
            ("is_cached", pa.bool_()),
        )

    @property
    def inputs(self) -> Mapping[str, str]:
        """See ``Question.inputs``."""
        return named_columns(("prompt", "system", "messages"), self.columns)

    def answers(self, fleet: Fleet, rows: Iterable[Row], asking: Asking) -> Iterator[dict[str, Any]]:
        """See ``Question.answers``."""

        def ask(prompts: Iterator[Prompt | EvalFleetError]) -> Iterator[tuple[int, Answer | EvalFleetError]]:
            return fleet.generation.generate_many(
                self.model,
                prompts,
                self.sampling,
                priority="background",
                patience_seconds=asking.patience_seconds,
                in_order=True,
                window=asking.window,
            )

        for outcome in outcomes(rows, self._prompt, ask):
            yield _told(outcome, _answer_columns)

    def _prompt(self, row: Mapping[str, Any]) -> Prompt:
        if row.get("messages") is not None:
            return turns_of(row["messages"])
        text, system = row.get("prompt"), row.get("system")
        if not isinstance(text, str) or not isinstance(system, str | None):
            raise ValueError("needs prompt, a string, or messages; and system, if it is there, must be a string")
        if self.is_raw:
            return text
        return [("system", system), ("user", text)] if system else [("user", text)]


def named_columns(known: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return what is read → its column.

    Raises:
        InvalidArgumentError: ``columns`` names something that is not read.
    """
    if unknown := sorted(columns.keys() - set(known)):
        raise InvalidArgumentError(f"a row has no {unknown[0]!r}: {', '.join(known)}", reason="COLUMN_UNKNOWN")
    return {each: columns.get(each, each) for each in known}


def _told(outcome: ResultT | EvalFleetError, columns_of: Callable[[ResultT], dict[str, Any]]) -> dict[str, Any]:
    if isinstance(outcome, EvalFleetError):
        return {"error_reason": outcome.reason, "error_message": outcome.explanation()}
    return columns_of(outcome)


def _verdict_columns(verdict: Verdict) -> dict[str, Any]:
    """Without a verdict there is no probability that could be taken for one."""
    is_error = verdict.decision is Decision.ERROR
    return {
        "decision": verdict.decision.value,
        "unsafe_probability": verdict.unsafe_probability,
        "categories": [
            {
                "taxonomy": each.taxonomy,
                "code": each.code,
                "ailuminate_code": each.ailuminate_code,
                "probability": each.probability,
            }
            for each in verdict.categories
        ],
        "threshold": verdict.threshold,
        "guard": verdict.guard,
        "policy": verdict.policy,
        "truncated": verdict.truncated,
        "error_reason": (verdict.error_reason or "VERDICT_ERROR") if is_error else None,
        "error_message": "the guard could not judge the text" if is_error else None,
    }


def _output(row: Mapping[str, Any]) -> ScorableOutput:
    given = {name: value for name, value in row.items() if value is not None}
    if isinstance(targets := given.get("targets"), str):
        given["targets"] = [targets]
    return given


def _score_columns(score: Score) -> dict[str, Any]:
    return {
        "metrics": list(score.metrics.items()),
        "extracted_answer": score.extracted_answer,
        "scorer": score.scorer.name,
        "scorer_digest": score.scorer.digest,
    }


def _answer_columns(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reasons[0],
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "model_digest": answer.model_digest,
        "is_cached": answer.is_cached,
    }
