"""What a ranking is: its request, its contenders, its state; and the runs that its results are booked under."""

import enum
import secrets
from dataclasses import dataclass, field

from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.gates import DEFAULT_CONFIDENCE, Goal
from services.evaluation.runs.record import Run, RunFailure, RunState, StopReason, TaskProgress


class Standing(enum.Enum):
    """What is known of a contender; see ``Standing`` in aggregation's ranking.proto."""

    CONTENDING = "contending"
    TOP = "top"
    OUT = "out"
    NOT_INFERIOR = "not_inferior"
    INFERIOR = "inferior"
    BASE = "base"
    TIED = "tied"

    @property
    def wants_items(self) -> bool:
        """Whether further items may tell more. The base of variants is needed for as long as one of them is open."""
        return self is Standing.CONTENDING


@dataclass(frozen=True, slots=True)
class Span:
    """A range that holds at all times at once."""

    lower: float
    upper: float
    confidence_level: float
    method: str


@dataclass(frozen=True, slots=True)
class Contender:
    """A model of a ranking.

    Attributes:
        run_id: its results are booked under this run.
        decided_after: items after which its standing was known; None before.
        value: estimate of its mean over all items; None before the first.
        span: range of that mean; None before the first look.
        difference: with a margin the range of its mean minus the base's.
        completed_count: items of the common order that it has without a gap.
        scored_count: outcomes that the ledger has, one a sample of an item.
        failed_count: the same of those that failed.
        evaluated_count: items of which the ledger has every outcome.
    """

    model: str
    model_digest: str
    run_id: str
    standing: Standing = Standing.CONTENDING
    decided_after: int | None = None
    value: float | None = None
    span: Span | None = None
    difference: Span | None = None
    completed_count: int = 0
    scored_count: int = 0
    failed_count: int = 0
    evaluated_count: int = 0

    @property
    def run(self) -> str:
        """Resource name, ``runs/{run}``."""
        return f"runs/{self.run_id}"

    @property
    def has_outcomes(self) -> bool:
        """Whether the ledger has any."""
        return self.scored_count + self.failed_count > 0


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """What a caller asks for; None means that the service chooses. Exactly one of ``top`` and ``margin`` is given.

    ``tolerance`` goes with ``top``: how much worse than others the models may be that are named the best.
    """

    suite: str
    task: str
    models: tuple[str, ...]
    top: int | None = None
    margin: float | None = None
    metric: str = ""
    confidence: float = DEFAULT_CONFIDENCE
    budget: Budget = field(default_factory=Budget)
    concurrency: int | None = None
    item_limit: int | None = None
    seed: int | None = None
    ranking_id: str | None = None
    request_id: str | None = None
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several models on one task. Times are seconds since the epoch; ``caller`` is who asked for it.

    Attributes:
        compared_count: items of the common order that were judged.
        is_decided: nothing is open any more.
        data_digest: over the task's definition and rows; empty until they have been read.
        sample_count: outcomes that an item has.
        tolerance: how much worse than others those may be that are named the best.
    """

    ranking_id: str
    suite: str
    suite_digest: str
    task: str
    metric: str
    lower_is_better: bool
    top: int | None
    margin: float | None
    confidence: float
    seed: int
    concurrency: int
    create_time: float
    contenders: tuple[Contender, ...]
    item_limit: int | None = None
    budget: Budget = field(default_factory=Budget)
    spent: Spend = field(default_factory=Spend)
    request_id: str | None = None
    caller: str | None = None
    state: RunState = RunState.PENDING
    failure: RunFailure | None = None
    stop_reason: StopReason | None = None
    is_decided: bool = False
    item_count: int | None = None
    compared_count: int = 0
    data_digest: str = ""
    sample_count: int = 1
    start_time: float | None = None
    end_time: float | None = None
    tolerance: float = 0.0

    @property
    def name(self) -> str:
        """Resource name, ``rankings/{ranking}``."""
        return f"rankings/{self.ranking_id}"

    @property
    def interval_alpha(self) -> float:
        """Error probability of each contender's range, so that all of them hold together (Bonferroni)."""
        return (1 - self.confidence) / len(self.contenders)


def new_ranking_id() -> str:
    """Make an id, unique by 32 random bits."""
    return f"rank-{secrets.token_hex(4)}"


def member_runs(ranking: Ranking) -> tuple[Run, ...]:
    """The runs of a ranking that has ended, as the list of runs keeps them; a model without an outcome has none."""
    return tuple(_member_run(ranking, each) for each in ranking.contenders if each.has_outcomes)


def _member_run(ranking: Ranking, contender: Contender) -> Run:
    count = ranking.item_count or 0
    is_exact = bool(count) and contender.completed_count == count
    span = contender.span or Span(0.0, 1.0, 1 - ranking.interval_alpha, "")
    is_judged = contender.standing is not Standing.CONTENDING
    reason = StopReason.COMPLETE if is_exact else StopReason.DECIDED if is_judged else ranking.stop_reason
    return Run(
        run_id=contender.run_id,
        suite=ranking.suite,
        suite_digest=ranking.suite_digest,
        model=contender.model,
        model_digest=contender.model_digest,
        seed=ranking.seed,
        concurrency=ranking.concurrency,
        create_time=ranking.create_time,
        item_limit=ranking.item_limit,
        tasks=(ranking.task,),
        state=ranking.state,
        failure=ranking.failure,
        start_time=ranking.start_time,
        end_time=ranking.end_time,
        progress=(
            TaskProgress(
                ranking.task,
                count * ranking.sample_count,
                contender.scored_count,
                contender.failed_count,
                data_digest=ranking.data_digest,
            ),
        ),
        caller=ranking.caller,
        goal=Goal(confidence=ranking.confidence, uses_history=False),
        decisions=(
            TaskDecision(
                task=ranking.task,
                metric=ranking.metric,
                questions=(),
                is_decided=is_judged,
                value=contender.value,
                lower=span.lower,
                upper=span.upper,
                confidence_level=span.confidence_level,
                method=span.method,
                completed_count=contender.completed_count,
                drawn_count=contender.evaluated_count,
                item_count=count,
                saved_count=max(0, count - contender.evaluated_count),
                is_exact=is_exact,
            ),
        ),
        stop_reason=reason if ranking.state is RunState.SUCCEEDED else None,
    )
