"""What the aggregation service makes of the results of a run, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that holds the true value with ``confidence_level``; ``method`` says how it was made."""

    lower: float
    upper: float
    confidence_level: float
    method: str


@dataclass(frozen=True, slots=True)
class JudgeReference:
    """Which exact guard or judge: its resource name, its version or engine, and a digest of all that decides."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class GuardQuality:
    """How a guard did on texts that people labelled, as counts.

    Attributes:
        metric: the metric that counts its verdicts: 1 for UNSAFE, 0 for SAFE.
        unsafe_count: texts labelled unsafe.
        unsafe_found: of those, how many the guard called unsafe.
        safe_count: texts labelled safe.
        safe_cleared: of those, how many the guard called safe.
        judge: whose that is, and that must be who judged the run; ``None``: whoever gives the counts answers for them.
    """

    metric: str
    unsafe_count: int
    unsafe_found: int
    safe_count: int
    safe_cleared: int
    judge: JudgeReference | None = None


@dataclass(frozen=True, slots=True)
class CorrectedRate:
    """A rate as it would be if its guard made no errors; ``value`` is ``None`` if it is no better than chance."""

    value: float | None
    interval: Interval


@dataclass(frozen=True, slots=True)
class PassRates:
    """What k samples of an item come to, on average over ``item_count`` items.

    Attributes:
        k: number of samples.
        any_of: probability that at least one of them succeeds (pass@k).
        all_of: probability that all of them do (pass^k).
        any_interval, all_interval: for more items of this kind; ``None`` where no method has one.
    """

    k: int
    any_of: float
    all_of: float
    any_interval: Interval | None
    all_interval: Interval | None
    item_count: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of one metric of one task.

    ``group`` is ``column=value``, or empty for all items. ``value`` is ``None`` when no item counts. ``corrected`` is
    there where the quality of the metric's guard was told.

    Where a part of the items was drawn to speak for all of the task, ``task_value`` estimates the mean over all of
    them, and ``task_interval`` holds it however often one looks. ``interval`` is for more items of this kind.
    ``passes`` is there where items have several samples, each 0 or 1.

    ``failed_count`` counts items that failed, or of which this metric did; ``failures_by_reason`` says why. Of
    ``unjudged_count`` of them nobody knows the metric, because whoever was to judge the answer gave no verdict:
    ``interval`` holds whatever it is from 0 to 1.
    """

    task: str
    metric: str
    group: str
    value: float | None
    interval: Interval | None
    standard_error: float | None
    scored_count: int
    failed_count: int
    failed_counted: int
    value_scored_only: float | None
    sample_count: int
    corrected: CorrectedRate | None = None
    task_value: float | None = None
    task_interval: Interval | None = None
    passes: tuple[PassRates, ...] = ()
    unjudged_count: int = 0
    failures_by_reason: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskTotals:
    """What one task of a run came to: outcomes, failures by reason, shortened prompts and cost.

    ``computed_tokens`` are those of prompts and answers that the engines computed; the others were saved, by the
    engines' prefix caches (``prefix_saved_tokens``) or by the cache of answers (``cache_saved_tokens``).
    """

    task: str
    item_count: int
    scored_count: int
    failed_count: int
    failures_by_reason: Mapping[str, int]
    truncated_count: int
    prompt_tokens: int
    completion_tokens: int
    engine_seconds: float
    computed_tokens: int = 0
    prefix_saved_tokens: int = 0
    cache_saved_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class SetMeasure:
    """A figure of a set of items that is no mean over them, such as a bias score or a calibration error.

    ``group`` is ``column=value``, or empty for all items that it is about; ``item_count`` are those that were scored,
    and ``excluded_count`` those that failed or lack one of its metrics.
    """

    task: str
    name: str
    group: str
    value: float
    interval: Interval | None
    item_count: int
    excluded_count: int = 0


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item of a run that could not be judged, or of which ``metrics`` could not; these are empty for all of it."""

    task: str
    item: str
    sample: int
    reason: str
    message: str
    metrics: tuple[str, ...] = ()
