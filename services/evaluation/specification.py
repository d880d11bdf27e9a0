"""What a task says: a frozen model of its YAML file.

A task is data. Its templates and expressions are sandboxed Jinja2 (see ``rendering.py``) over the columns of a row,
the task's constants and, in a task with variants, the variant's name.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self, TypeGuard

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from services.evaluation.judging_specification import UNSAFE_METRIC, MetricName, MetricUse, SafetyJudging, ScorerUse
from services.evaluation.source_specification import Source, Variants
from services.evaluation.specification_base import Expression, Identifier, Specification, Template

TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class RequestKind(StrEnum):
    """What is asked of the model."""

    GENERATE = "generate"
    MULTIPLE_CHOICE = "multiple_choice"
    LOG_LIKELIHOOD = "log_likelihood"


class PromptFormat(StrEnum):
    """How the prompt reaches the model: as raw text, or as a conversation that its chat template renders."""

    PLAIN = "plain"
    CHAT = "chat"


class FailedItems(StrEnum):
    """What an item that failed counts as: the worst value of every metric, or nothing (it is reported either way)."""

    WRONG = "wrong"
    EXCLUDED = "excluded"


class Truncation(StrEnum):
    """What happens to a prompt longer than the model's context: the item fails, or its oldest tokens are dropped."""

    FAIL = "fail"
    LEFT = "left"


class FewShot(Specification):
    """Worked examples before the question: written here, or the first rows of a split. Never drawn at random."""

    count: int = Field(ge=0, le=64)
    split: Identifier | None = None
    examples: tuple[dict[Identifier, JsonValue], ...] | None = None
    answer: Template | None = Field(default=None, description="Template of the answer; absent: target or right choice.")
    separator: str = Field(default="\n\n", description="Between examples; plain prompts only.")

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if (self.split is None) == (self.examples is None):
            raise ValueError("give either `split` or `examples`")
        if self.examples is not None and len(self.examples) < self.count:
            raise ValueError(f"count is {self.count} but there are {len(self.examples)} examples")
        return self


class Generation(Specification):
    """How text is generated."""

    max_tokens: int = Field(default=256, ge=1, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(default=(), max_length=16)
    stop_from: Identifier | None = Field(
        default=None, description="Constant that holds the stop strings, so that variants can differ."
    )
    sample_count: int = Field(default=1, ge=1, le=128)

    @model_serializer(mode="wrap")
    def _without_absent_constant(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Tasks without one keep the digest that they had before there was the field.
        content: dict[str, Any] = dumped(self)
        if self.stop_from is None:
            content.pop("stop_from", None)
        return content

    def resolved(self, constants: Mapping[str, JsonValue]) -> Self:
        """The same with the stop strings that a constant holds; one that is no list of texts is left out."""
        stops = constants.get(self.stop_from) if self.stop_from is not None else None
        return self.model_copy(update={"stop": tuple(stops)}) if _are_stop_strings(stops) else self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.sample_count > 1 and self.temperature == 0:
            raise ValueError("sample_count above 1 needs a temperature above 0")
        return self


def _are_stop_strings(value: JsonValue) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) <= 16 and all(isinstance(each, str) and each for each in value)


class Comparability(Specification):
    """Whose published numbers this task's numbers can be compared with."""

    harness: str
    version: str
    task: str
    notes: str = Field(default="", description="Every known difference.")

    def __str__(self) -> str:
        """``harness version, task``."""
        return f"{self.harness} {self.version}, {self.task}"


class Provenance(Specification):
    """Where the data is from, what may be done with it, and how to recognise it in a training corpus."""

    licence: str
    citation: str
    homepage: str = ""
    canary: str = ""


class TaskSpec(Specification):
    """A task, or with ``variants`` a family of tasks."""

    name: TaskName
    description: str
    provenance: Provenance
    comparable_to: Comparability | None = None
    sources: tuple[Source, ...] = Field(min_length=1, description="Tried in order; the first that has data is used.")
    split: Identifier
    variants: Variants | None = None
    constants: dict[Identifier, JsonValue] = Field(default={}, description="Values that every template sees.")
    fields: dict[Identifier, Expression] = Field(default={}, description="Computed columns, in order.")
    where: Expression | None = Field(default=None, description="Rows for which this is false are left out.")
    item_id: Expression | None = Field(default=None, description="Absent: a digest of the row's columns.")
    request: RequestKind
    format: PromptFormat = PromptFormat.PLAIN
    preamble: Template = Field(default="", description="Before the examples; the system message of a chat.")
    prompt: Template
    delimiter: str = Field(default=" ", description="Between prompt and answer; plain prompts only.")
    few_shot: FewShot | None = None
    choices: Expression | None = Field(default=None, description="Multiple choice: list of answers.")
    continuation: Template | None = Field(
        default=None, description="Multiple choice: the scored text of `choice`; absent: the choice itself."
    )
    unconditional_prompt: Template | None = Field(
        default=None,
        description="Multiple choice: what choices also follow, in place of prompt and examples, to be scored without "
        "the question; for acc_mutual_info. Doubles the continuations. Absent: they are not.",
    )
    gold: Expression | None = Field(default=None, description="Multiple choice: index, or list of indices, from 0.")
    targets: Expression | None = Field(
        default=None, description="Generation: accepted answer or list of them. Log-likelihood: the text."
    )
    generation: Generation = Generation()
    scorers: tuple[ScorerUse, ...] = ()
    safety: SafetyJudging | None = None
    primary_metric: MetricName
    groups: dict[Identifier, Expression] = Field(default={}, description="Reported as estimates of their own.")
    cluster: Expression | None = Field(default=None, description="Items with an equal value are not independent.")
    failed_items: FailedItems = FailedItems.WRONG
    truncation: Truncation = Truncation.FAIL

    @model_validator(mode="after")
    def _fits_its_request_kind(self) -> Self:
        wanted: dict[str, Any] = {"choices": self.choices, "gold": self.gold}
        foreign: dict[str, Any] = {"targets": self.targets}
        if self.request is not RequestKind.MULTIPLE_CHOICE:
            wanted = {"targets": self.targets} if self.request is RequestKind.LOG_LIKELIHOOD else {}
            foreign = {"choices": self.choices, "gold": self.gold, "continuation": self.continuation}
            foreign["unconditional_prompt"] = self.unconditional_prompt
        if missing := [name for name, value in wanted.items() if value is None]:
            raise ValueError(f"a {self.request} task needs {' and '.join(missing)}")
        if extra := [name for name, value in foreign.items() if value is not None]:
            raise ValueError(f"a {self.request} task has no use for {' and '.join(extra)}")
        if self.request is not RequestKind.GENERATE and self.safety and self.safety.aspect == "response":
            raise ValueError(f"a {self.request} task has no response for a guard to judge; use aspect: prompt")
        if self.request is RequestKind.LOG_LIKELIHOOD and self.failed_items is FailedItems.WRONG:
            raise ValueError(
                "no likelihood is the worst, which failed items could count as; use failed_items: excluded"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_absent_later_fields(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Tasks without them keep the digest that they had before there were these fields.
        content: dict[str, Any] = dumped(self)
        if self.unconditional_prompt is None:
            content.pop("unconditional_prompt", None)
        return content

    @model_validator(mode="after")
    def _has_stop_strings_where_it_says(self) -> Self:
        name = self.generation.stop_from
        sets = [self.constants, *(self.variants.values.values() if self.variants else ())]
        if any(not _are_stop_strings(constants[name]) for constants in sets if name in constants):
            raise ValueError(f"the constant {name!r} of generation.stop_from must be a list of at most 16 texts")
        return self

    @model_validator(mode="after")
    def _reports_its_primary_metric(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError("two metrics have the same name; rename one with {name: ..., from: ...}")
        if self.primary_metric not in names:
            raise ValueError(f"primary_metric {self.primary_metric!r} is none of its metrics: {', '.join(names)}")
        return self

    @property
    def metrics(self) -> tuple[MetricUse, ...]:
        """Every metric that the task reports, in order; ``unsafe`` last if a guard judges."""
        scored = tuple(metric for use in self.scorers for metric in use.metrics)
        if self.safety is None:
            return scored
        return (*scored, MetricUse(name=UNSAFE_METRIC, source=UNSAFE_METRIC, higher_is_better=False))

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the primary metric is better."""
        return next(metric.higher_is_better for metric in self.metrics if metric.name == self.primary_metric)

    @property
    def failure_values(self) -> Mapping[str, float]:
        """What a failed item counts as, by metric; empty if failed items are left out."""
        if self.failed_items is FailedItems.EXCLUDED:
            return {}
        return {metric.name: 0.0 if metric.higher_is_better else 1.0 for metric in self.metrics}
