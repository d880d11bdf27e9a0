"""Who judges a task's items, and which metrics come of it: parts of a task's file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from services.evaluation.specification_base import Expression, Identifier, Specification

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
JudgeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]

UNSAFE_METRIC = "unsafe"
"""1 if the guard judged the item UNSAFE, else 0."""


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
