"""What became of the items of a run, one by one, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from evalfleet.estimate_results import JudgeReference


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """Why an item has no scores, or ``metrics`` of it have none; what they count as all the same is in ``counted_as``.

    ``metrics`` is empty where the item failed as a whole.
    """

    reason: str
    message: str
    metrics: tuple[str, ...] = ()
    counted_as: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemUsage:
    """What an item cost: tokens of prompt and answer, those that were computed for it, and seconds of the engine.

    ``computed_completion_tokens`` are those of ``computed_tokens`` that were generated, or scored as continuations.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    computed_tokens: int = 0
    prefix_saved_tokens: int = 0
    cache_saved_tokens: int = 0
    engine_seconds: float = 0.0
    cost_usd: float = 0.0
    computed_completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one sample of one item of a run.

    Attributes:
        draw_index: its place in the run's seeded order, from 0.
        groups: value by column.
        metrics: value by metric; empty where the item failed.
        failures: why it, or some of its metrics, have no value; empty where all have one.
        extracted_answer: what the scorers took for the answer; ``None`` if they found none.
        prompt: the text, or a conversation as JSON.
        output: the text, or the choices' log-likelihoods as JSON.
        targets: what the task takes for right; empty where nothing is compared, or that is long.
        judges: every scorer, judge and guard that took part.
        truncated: whether the prompt was shortened to fit the model's context.
        pruned_texts: ``prompt``, ``output``, ``extracted_answer``: which of them were taken out of the ledger.
    """

    run: str
    task: str
    item: str
    sample: int
    draw_index: int
    groups: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    failures: tuple[ItemFailure, ...] = ()
    extracted_answer: str | None = None
    prompt: str = ""
    output: str = ""
    targets: tuple[str, ...] = ()
    judges: tuple[JudgeReference, ...] = ()
    model_digest: str = ""
    usage: ItemUsage = ItemUsage()
    truncated: bool = False
    complete_time: datetime | None = None
    pruned_texts: tuple[str, ...] = ()

    @property
    def failure(self) -> ItemFailure | None:
        """Why the item as a whole has no scores; ``None`` if it has some."""
        return next((each for each in self.failures if not each.metrics), None)

    def value(self, metric: str) -> float | None:
        """Return what the item counts as in a metric, failed or not; ``None`` if nobody knows, or it has none."""
        if metric in self.metrics:
            return self.metrics[metric]
        return next((each.counted_as[metric] for each in self.failures if metric in each.counted_as), None)
