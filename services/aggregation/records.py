"""What the ledger holds, as the domain sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True, order=True)
class ResultKey:
    """What a result is about: one sample of one item of one task of a run. Orders as the ledger lists."""

    task: str
    item: str
    sample: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens, engine time and price; adds up. What was computed and what was saved: see ``Usage`` in common.proto."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_nanoseconds: int = 0
    computed_prompt_tokens: int = 0
    computed_completion_tokens: int = 0
    prefix_saved_tokens: int = 0
    cache_saved_tokens: int = 0
    cost_micro_usd: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, name) + getattr(other, name) for name in COST_FIELDS))


COST_FIELDS = tuple(each.name for each in fields(Cost))


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge that took part."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class MetricFailure:
    """Why some metrics of an answered item have no value.

    Attributes:
        counted_as: what some of them count as all the same; the values of the others are not known. Empty in a failed
            result, which says it itself.
    """

    metrics: tuple[str, ...]
    reason: str
    message: str = ""
    counted_as: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a judged item, and why it lacks some."""

    metrics: Mapping[str, float]
    extracted_answer: str | None = None
    failures: tuple[MetricFailure, ...] = ()

    @property
    def counted(self) -> Mapping[str, float]:
        """What its metrics count as, those with a value."""
        if not self.failures:
            return self.metrics
        return {**self.metrics, **{name: value for each in self.failures for name, value in each.counted_as.items()}}


@dataclass(frozen=True, slots=True)
class Failed:
    """Why an item has no scores, and the values it counts as all the same, by metric."""

    reason: str
    message: str = ""
    counted_as: Mapping[str, float] | None = None
    failures: tuple[MetricFailure, ...] = ()

    @property
    def counted(self) -> Mapping[str, float]:
        """What its metrics count as, those with a value."""
        return self.counted_as or {}


def unjudged_metrics(outcome: Scored | Failed) -> frozenset[str]:
    """Return the metrics whose values are not known, though the model answered."""
    if not outcome.failures:
        return frozenset()
    return frozenset(name for each in outcome.failures for name in each.metrics).difference(outcome.counted)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one sample of one item.

    Attributes:
        run: resource name, ``runs/{run}``.
        key: task, item and sample.
        outcome: scores, or why there are none.
        groups: value by column.
        draw_index: position in the run's seeded order.
        complete_microseconds: when the outcome was known, since 1970 (UTC); ``None`` if the sender did not say.
        targets: what the task takes for right, for people who read; short ones only.
        pruned_texts: the fields whose text retention has removed; they read as empty, or as no answer.
    """

    run: str
    key: ResultKey
    outcome: Scored | Failed
    groups: Mapping[str, str]
    draw_index: int
    cost: Cost
    judges: tuple[Judge, ...]
    model_digest: str
    prompt: str
    output: str
    complete_microseconds: int | None
    is_truncated: bool
    targets: tuple[str, ...] = ()
    pruned_texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunLease:
    """Which of a run's workers writes: epochs grow as workers take the run over from each other, from 1."""

    run: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A result's key, why it failed, if it did, and its position in the run's order."""

    key: ResultKey
    failure_reason: str | None
    draw_index: int


@dataclass(frozen=True, slots=True)
class Observation:
    """The part of a result that estimates need."""

    key: ResultKey
    outcome: Scored | Failed
    groups: Mapping[str, str]
    cost: Cost
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class AppendCounts:
    """How many results were new, and how many were there already and stayed as they were; adds up.

    Attributes:
        appended, duplicates: these.
        incarnation: of the database that has them; see ``incarnations``.
    """

    appended: int = 0
    duplicates: int = 0
    incarnation: str = field(default="", compare=False)

    def __add__(self, later: "AppendCounts") -> "AppendCounts":
        return AppendCounts(self.appended + later.appended, self.duplicates + later.duplicates, later.incarnation)
