"""What a suite says: a frozen model of its YAML file."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from services.evaluation.judging_specification import JudgeChoice
from services.evaluation.specification import PromptFormat, TaskName
from services.evaluation.specification_base import Specification

SuiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
TierName = Literal["smoke", "standard", "deep"]
GATE_PATTERN = r"^\s*([a-z][a-z0-9_]*)(?::([a-z][a-z0-9_]*))?\s*(>=|<=)\s*(0(?:\.[0-9]+)?|1(?:\.0+)?|\.[0-9]+)\s*$"
"""``task>=0.55`` or ``task:metric<=0.02``, as a suite's file writes a gate."""


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
