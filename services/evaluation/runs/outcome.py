"""What becomes of one item: scores or a typed failure, with its cost and its judges."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.runtime.errors import FleetError


@dataclass(frozen=True, slots=True)
class Usage:
    """What an item cost; what was computed and what was saved: see ``Usage`` in common.proto."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_seconds: float = 0.0
    computed_prompt_tokens: int = 0
    computed_completion_tokens: int = 0
    prefix_saved_tokens: int = 0
    cache_saved_tokens: int = 0
    cost_micro_usd: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Both costs together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.engine_seconds + other.engine_seconds,
            self.computed_prompt_tokens + other.computed_prompt_tokens,
            self.computed_completion_tokens + other.computed_completion_tokens,
            self.prefix_saved_tokens + other.prefix_saved_tokens,
            self.cache_saved_tokens + other.cache_saved_tokens,
            self.cost_micro_usd + other.cost_micro_usd,
        )


@dataclass(frozen=True, slots=True)
class JudgeReference:
    """Which exact scorer or guard judged."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no scores, and what its metrics count as (a metric that is absent leaves the item out)."""

    reason: str
    message: str
    counted_as: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_error(cls, error: FleetError, counted_as: Mapping[str, float]) -> "Failure":
        """A failure with the error's reason and message."""
        return cls(error.reason, error.message, counted_as)


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """The one outcome of one sample of one item; exactly one of ``metrics`` and ``failure`` is not None."""

    task: str
    item: str
    sample: int
    draw_index: int
    metrics: Mapping[str, float] | None
    failure: Failure | None
    groups: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    judges: tuple[JudgeReference, ...] = ()
    model_digest: str = ""
    prompt: str = ""
    output: str = ""
    extracted_answer: str | None = None
    truncated: bool = False
    complete_time: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an outcome that is both or neither."""
        if (self.metrics is None) == (self.failure is None):
            raise ValueError("an outcome is either metrics or a failure")
