"""What a comparison of runs answers, as plain immutable values."""

import enum
from dataclasses import dataclass

from evalfleet.results import Interval


class Verdict(enum.StrEnum):
    """What is known of a variant."""

    UNDECIDED = "undecided"
    NOT_INFERIOR = "not inferior"
    INFERIOR = "inferior"


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A metric to compare; the digests are of the task as the base's and the variant's run read it, if known."""

    task: str
    metric: str
    lower_is_better: bool = False
    base_digest: str = ""
    variant_digest: str = ""
    item_count: int | None = None


@dataclass(frozen=True, slots=True)
class MarginDecision:
    """Whether the variant is worse by more than the margin, over all ``item_count`` items.

    ``decided_after`` counts items in draw order; ``interval`` is of the difference over all, at all times at once.
    """

    verdict: Verdict
    decided_after: int | None
    prefix_count: int
    item_count: int
    superior: bool
    interval: Interval | None
    undecided_reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one task of two runs; differences are variant − base, and what no method has is ``None``.

    ``unpaired_reasons`` is empty where items were paired. ``interval`` and ``p_value`` are about more questions of this
    kind, ``margin`` about these. ``partial_draw``: a run drew some items more readily than others and has not all of
    them, so that plain means would be biased and are absent.
    """

    task: str
    metric: str
    lower_is_better: bool
    unpaired_reasons: tuple[str, ...]
    item_count: int
    base_only_count: int
    variant_only_count: int
    excluded_count: int
    base_value: float | None
    variant_value: float | None
    difference: float | None
    interval: Interval | None
    standard_error: float | None
    cluster_count: int | None
    p_value: float | None
    p_value_method: str
    adjusted_p_value: float | None
    effect_size: float | None
    least_detectable: float | None
    variant_higher_count: int
    base_higher_count: int
    margin: MarginDecision | None
    partial_draw: bool = False


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """All comparisons of two runs; ``verdict`` is on all together, ``None`` without a margin."""

    base_run: str
    variant_run: str
    comparisons: tuple[Comparison, ...]
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class AnalyzedItem:
    """One item over several runs.

    ``discrimination`` is ``None`` where nothing varies, ``duplicate_group`` 0 where no other text is alike;
    ``prompt_pruned`` says that the text was taken out of the ledger.
    """

    item: str
    run_count: int
    difficulty: float
    discrimination: float | None
    saturated: bool
    dead: bool
    suspect: bool
    duplicate_group: int
    similarity: float
    prompt_end: str
    prompt_pruned: bool = False


@dataclass(frozen=True, slots=True)
class ItemAnalysis:
    """The items of a task.

    ``skipped_runs`` and ``other_prompts`` say by run why it, or how many of its items, were left out;
    ``duplicates_searched`` is false if there were too many items for that.
    """

    task: str
    metric: str
    runs: tuple[str, ...]
    skipped_runs: dict[str, str]
    other_prompts: dict[str, int]
    item_count: int
    saturated_count: int
    dead_count: int
    suspect_count: int
    duplicate_count: int
    duplicates_searched: bool
    items: tuple[AnalyzedItem, ...]


@dataclass(frozen=True, slots=True)
class WatchedMetric:
    """A metric to watch over checkpoints."""

    task: str
    metric: str
    lower_is_better: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointPoint:
    """One metric at one checkpoint; ``skipped_reason`` says why it could not be watched, if so."""

    run_index: int
    value: float | None
    item_count: int
    lost_count: int
    gained_count: int
    log_evidence: float | None
    log_threshold: float | None
    skipped_reason: str


@dataclass(frozen=True, slots=True)
class WatchedSeries:
    """One metric over the checkpoints."""

    task: str
    metric: str
    lower_is_better: bool
    points: tuple[CheckpointPoint, ...]


@dataclass(frozen=True, slots=True)
class RegressionAlarm:
    """A task that became worse: noticed at ``run``, likely since the run at ``change_index``.

    ``difference`` is the mean from the change on − the mean before it, better being more.
    """

    task: str
    metric: str
    run: str
    run_index: int
    change_index: int
    difference: float
    before_count: int
    after_count: int
    item_count: int
    log_evidence: float
    log_threshold: float
    lost_items: tuple[str, ...]
    lost_count: int
    gained_count: int


@dataclass(frozen=True, slots=True)
class Regressions:
    """What was found along ``runs``, and every metric's way."""

    runs: tuple[str, ...]
    alarms: tuple[RegressionAlarm, ...]
    series: tuple[WatchedSeries, ...]
