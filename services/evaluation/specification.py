"""What a task and a suite say: frozen models of their YAML files.

A task is data. Its templates and expressions are sandboxed Jinja2 (see ``rendering.py``) over the columns of a row,
the task's constants and, in a task with variants, the variant's name.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from services.evaluation.source_specification import Source, Variants
from services.evaluation.specification_base import Expression, Identifier, Specification, Template

TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
SuiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
JudgeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class RequestKind(StrEnum):
    """What is asked of the model."""

    GENERATE = "generate"
    MULTIPLE_CHOICE = "multiple_choice"


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


class MetricUse(Specification):
    """A metric that the task reports."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: MetricName
    source: MetricName = Field(default="", alias="from", description="The scorer's own name for it; absent: `name`.")
    higher_is_better: bool = True
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_enough(cls, value: Any) -> Any:
        value = {"name": value} if isinstance(value, str) else value
        if isinstance(value, Mapping) and "from" not in value and "source" not in value and "name" in value:
            return {**value, "from": value["name"]}
        return value


class ScorerUse(Specification):
    """A scorer of the scoring service, its parameters and which of its metrics are reported under which name."""

    scorer: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    parameters: dict[Identifier, JsonValue] = Field(default={})
    parameters_from: dict[Identifier, Identifier] = Field(
        default={}, description="Parameter -> constant that holds its value, so that variants can differ."
    )
    details: dict[Identifier, Expression] = Field(
        default={}, description="What else the scorer needs to know of an item, computed from its row."
    )
    prompt: bool = Field(default=False, description="Whether the scorer is also told what the model was asked.")
    metrics: tuple[MetricUse, ...] = Field(min_length=1)

    @model_serializer(mode="wrap")
    def _without_defaults_of_later_fields(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Tasks that use neither keep the digest that they had before these fields were there.
        content: dict[str, Any] = dumped(self)
        for name in ("details", "prompt"):
            if not content.get(name):
                content.pop(name, None)
        return content

    def resolved(self, constants: Mapping[str, JsonValue]) -> Self:
        """The same use with the parameters that come from constants filled in; an unknown constant is left out."""
        found = {name: constants[each] for name, each in self.parameters_from.items() if each in constants}
        return self.model_copy(update={"parameters": {**self.parameters, **found}})


class JudgeChoice(Specification):
    """Who judges safety: a guard of the safety service, or a policy of its own; by default the service's guard."""

    guard: JudgeName | None = None
    policy: JudgeName | None = None
    threshold: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _thresholds_come_from_one_place(self) -> Self:
        if self.policy is not None and self.threshold is not None:
            raise ValueError("a policy says from which probability on a hazard counts; leave out policy or threshold")
        return self

    @model_serializer(mode="wrap")
    def _without_absent_policy(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Tasks without one keep the digest that they had before there were policies.
        content: dict[str, Any] = dumped(self)
        if self.policy is None:
            content.pop("policy", None)
        return content


class SafetyJudging(JudgeChoice):
    """Have a guard or a policy judge each item; adds the metric ``unsafe`` (1 if it says UNSAFE)."""

    aspect: Literal["response", "prompt"] = "response"

    def by(self, choice: JudgeChoice) -> "SafetyJudging":
        """Return the same judging by somebody else."""
        return SafetyJudging(guard=choice.guard, policy=choice.policy, threshold=choice.threshold, aspect=self.aspect)


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
    gold: Expression | None = Field(default=None, description="Multiple choice: index, or list of indices, from 0.")
    targets: Expression | None = Field(default=None, description="Generation: accepted answer or list of them.")
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
        if self.request is RequestKind.GENERATE:
            wanted, foreign = {}, {"choices": self.choices, "gold": self.gold, "continuation": self.continuation}
        if missing := [name for name, value in wanted.items() if value is None]:
            raise ValueError(f"a {self.request} task needs {' and '.join(missing)}")
        if extra := [name for name, value in foreign.items() if value is not None]:
            raise ValueError(f"a {self.request} task has no use for {' and '.join(extra)}")
        if self.request is RequestKind.MULTIPLE_CHOICE and self.safety and self.safety.aspect == "response":
            raise ValueError("a multiple_choice task has no response for a guard to judge; use aspect: prompt")
        return self

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


TierName = Literal["smoke", "standard", "deep"]
GATE_PATTERN = r"^\s*([a-z][a-z0-9_]*)(?::([a-z][a-z0-9_]*))?\s*(>=|<=)\s*(0(?:\.[0-9]+)?|1(?:\.0+)?|\.[0-9]+)\s*$"
"""``task>=0.55`` or ``task:metric<=0.02``, as a suite's file writes a gate."""

UNSAFE_METRIC = "unsafe"
"""1 if the guard judged the item UNSAFE, else 0."""


class SuiteEntry(Specification):
    """A task of a suite, possibly with changes of its own."""

    task: TaskName = Field(description="A task, or a family, which stands for all of its variants whose data is there.")
    limit: int | None = Field(default=None, ge=1, description="Most items, the first of the seeded order.")
    few_shot_count: int | None = Field(default=None, ge=0, le=64)
    format: PromptFormat | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    safety: JudgeChoice | None = Field(default=None, description="Who judges the task's safety instead.")

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_enough(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


class BudgetSpec(Specification):
    """What a run may spend; see ``Budget`` in evaluation.proto. ``usd`` is in US dollars."""

    items: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    engine_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    usd: float | None = Field(default=None, gt=0, le=1e9, allow_inf_nan=False)
    wall_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class TierSpec(Specification):
    """How deep a run goes: gates, the precision of tasks without one, budget, samples of an item, judges of safety."""

    gates: tuple[Annotated[str, StringConstraints(pattern=GATE_PATTERN)], ...] = ()
    precision: float | None = Field(default=None, ge=0.001, le=0.5)
    budget: BudgetSpec = BudgetSpec()
    samples: int | None = Field(default=None, ge=1, le=128, description="Of each generated answer; absent: the task's.")
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False, description="Likewise.")
    safety: JudgeChoice | None = Field(default=None, description="Who judges safety instead of the tasks' judges.")


class StartingTiersSpec(Specification):
    """Where runs begin that leave their tier to the suite, by what is new in the model."""

    unchanged: TierName = "smoke"
    adapter: TierName = "smoke"
    minor: TierName = "standard"
    major: TierName = "deep"


class SuiteSpec(Specification):
    """Tasks that are run together."""

    name: SuiteName
    description: str
    tasks: tuple[SuiteEntry, ...] = Field(min_length=1)
    tiers: dict[TierName, TierSpec] = Field(default={}, description="Used by runs that name a tier.")
    starting_tiers: StartingTiersSpec = Field(
        default=StartingTiersSpec(), description="Used by runs of the tier `auto`."
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_are_distinct(cls, value: tuple[SuiteEntry, ...]) -> tuple[SuiteEntry, ...]:
        names = [entry.task for entry in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return value
