"""What a fleet answers, as plain immutable values."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from evalfleet.errors import EvalFleetError
from evalfleet.goals import NO_BUDGET, Budget, Gate, Spend, StopReason, TaskDecision, Tier, TierChoice


class ModelState(enum.StrEnum):
    """What a registered model is doing."""

    UNKNOWN = "unknown"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    EVICTED = "evicted"


class RunState(enum.StrEnum):
    """What a run is doing."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Model:
    """A registered checkpoint; ``failure`` says why it could not be loaded, in one line.

    ``foreign`` names the model of a foreign Triton, ``host:port/name``; it is empty for checkpoints of the fleet's own.
    """

    name: str
    checkpoint_path: str
    digest: str
    state: ModelState
    failure: str
    architecture: str
    dtype: str
    context_tokens: int
    weight_bytes: int
    create_time: datetime | None
    engine: str = ""
    foreign: str = ""


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far one task of a run is; ``item_count`` is ``None`` until its data set has been read.

    ``data_digest`` is over definition and rows: tasks with the same one ask the same; empty until they have been read.
    """

    task: str
    item_count: int | None
    scored_count: int
    failed_count: int
    data_digest: str = ""

    @property
    def done_count(self) -> int:
        """Items with an outcome, scored or failed."""
        return self.scored_count + self.failed_count


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation of one model with one suite; ``failure`` says why it failed, in one line.

    Attributes:
        tier_choice: why it has its tier, where that was left to the suite.
        escalates: whether the next tier follows when no gate has failed.
        earlier_run, next_run: the runs of the tiers before and after this one; empty where there is none (yet).
        sample_count, temperature: of generated answers; ``None``: as each task says.
    """

    name: str
    suite: str
    suite_digest: str
    model: str
    model_digest: str
    state: RunState
    failure: str
    seed: int
    item_limit: int | None
    tasks: tuple[TaskProgress, ...]
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    stop_reason: StopReason = StopReason.UNKNOWN
    gates: tuple[Gate, ...] = ()
    precision: float | None = None
    confidence: float = 0.95
    budget: Budget = NO_BUDGET
    spend: Spend | None = None
    tier: str = ""
    decisions: tuple[TaskDecision, ...] = ()
    tier_choice: TierChoice | None = None
    escalates: bool = False
    earlier_run: str = ""
    next_run: str = ""
    sample_count: int | None = None
    temperature: float | None = None

    @property
    def is_of_ranking(self) -> bool:
        """Whether it is a model's part in a ranking: those alone have decisions without anything to decide or spend."""
        return bool(self.decisions) and not self.gates and self.precision is None and self.spend is None

    @property
    def seconds(self) -> float | None:
        """Seconds from its first item to its end; ``None`` before it has ended."""
        if self.start_time is None or self.end_time is None:
            return None
        return (self.end_time - self.start_time).total_seconds()


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that holds the true value with ``confidence_level``; ``method`` says how it was made."""

    lower: float
    upper: float
    confidence_level: float
    method: str


@dataclass(frozen=True, slots=True)
class GuardQuality:
    """How a guard did on texts that people labelled, as counts.

    Attributes:
        metric: the metric that counts its verdicts: 1 for UNSAFE, 0 for SAFE.
        unsafe_count: texts labelled unsafe.
        unsafe_found: of those, how many the guard called unsafe.
        safe_count: texts labelled safe.
        safe_cleared: of those, how many the guard called safe.
    """

    metric: str
    unsafe_count: int
    unsafe_found: int
    safe_count: int
    safe_cleared: int


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
class RunSnapshot:
    """A run at one moment, with its estimates and totals so far.

    ``events`` are what a watched run has come through since the snapshot before: states, and decisions of which some
    are new. A later watch with ``resume_token`` goes on behind them.
    """

    run: Run
    estimates: tuple[Estimate, ...]
    totals: tuple[TaskTotals, ...]
    events: tuple[RunState | TaskDecision, ...] = ()
    resume_token: str = ""


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item of a run that could not be judged."""

    task: str
    item: str
    sample: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a suite; ``comparable_to`` says which published numbers its own can be compared with."""

    name: str
    description: str
    primary_metric: str
    higher_is_better: bool
    comparable_to: str


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of tasks that are run together."""

    name: str
    description: str
    digest: str
    tasks: tuple[Task, ...]
    tiers: tuple[Tier, ...] = ()


class Decision(enum.StrEnum):
    """What a guard decided. ERROR means that it could not judge: never read it as safe."""

    ERROR = "error"
    SAFE = "safe"
    UNSAFE = "unsafe"
    CONTROVERSIAL = "controversial"


@dataclass(frozen=True, slots=True)
class HazardScore:
    """One hazard category that reached the threshold; ``probability`` is ``None`` if the guard gives none."""

    taxonomy: str
    code: str
    ailuminate_code: str
    probability: float | None


@dataclass(frozen=True, slots=True)
class GuardReference:
    """Which exact guard judged; verdicts are comparable where the three SHA-256 digests are equal."""

    name: str
    weights_digest: str
    template_digest: str
    calibration_digest: str
    engine: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A guard's judgement of one turn of a conversation, or what a policy made of those of several.

    ``unmapped`` says that the guard named a hazard that its taxonomy does not have; ``guard_verdicts`` holds what each
    of a policy's several guards said. ``policy`` is empty without one, and for a policy of the caller's own, whose
    ``policy_digest`` says which it was. ``windows`` counts the parts in which a long text was judged.
    """

    decision: Decision
    unsafe_probability: float | None
    categories: tuple[HazardScore, ...]
    guard: str
    threshold: float | None
    truncated: bool
    error_reason: str
    refusal: bool | None = None
    over_refusal: bool | None = None
    cached: bool = False
    unmapped: bool = False
    guard_reference: GuardReference | None = None
    policy: str = ""
    policy_digest: str = ""
    guard_verdicts: tuple["Verdict", ...] = ()
    windows: int = 1


@dataclass(frozen=True, slots=True)
class HazardCategory:
    """A hazard category that a guard knows; ``ailuminate_code`` is empty if MLCommons AILuminate has none for it."""

    taxonomy: str
    taxonomy_version: str
    code: str
    title: str
    ailuminate_code: str


@dataclass(frozen=True, slots=True)
class Guard:
    """A model that judges safety.

    ``default_threshold`` is ``None`` if it decides without one, ``max_tokens`` if it reads texts of any length whole.
    """

    name: str
    description: str
    reference: GuardReference
    aspects: tuple[str, ...]
    categories: tuple[HazardCategory, ...]
    default_threshold: float | None
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class RollingVerdict:
    """The verdict on a response so far, or why there is none; only the last one, on the whole text, ``is_final``.

    A verdict is never milder than one before it: where the text so far is judged milder, ``outcome`` repeats the more
    severe verdict and ``current`` holds that on the text so far; elsewhere it is ``None``.
    """

    outcome: Verdict | EvalFleetError
    is_final: bool
    judged_characters: int
    current: Verdict | None = None


@dataclass(frozen=True, slots=True)
class PolicyHazard:
    """A hazard that counts under a policy: an MLCommons AILuminate code, or ``TAXONOMY/CODE`` of a guard.

    ``threshold`` is on its probability; default: the policy's, or else the guard's.
    """

    code: str
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Which guards judge, which hazards count, and what becomes of errors. The defaults leave everything to the guard.

    ``combination`` is ``any-unsafe`` or ``majority``, ``on_error`` is ``error`` or ``unsafe``, ``on_controversial`` is
    ``keep``, ``unsafe`` or ``safe``. ``name``, ``digest`` and ``problem`` are the service's: leave them empty in a
    policy of your own.
    """

    hazards: tuple[PolicyHazard, ...] = ()
    threshold: float | None = None
    guards: tuple[str, ...] = ()
    combination: str = "any-unsafe"
    on_error: str = "error"
    on_controversial: str = "keep"
    aspects: tuple[str, ...] = ()
    version: str = ""
    description: str = ""
    name: str = ""
    digest: str = ""
    problem: str = ""
