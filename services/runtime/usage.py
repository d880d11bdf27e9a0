"""What an answer or a judgement cost, and how an error tells what was spent before it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from services.runtime.errors import FleetError

USAGE_PREFIX: Final = "usage_"
"""Before the names of the metadata that say what came before an error cost."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What requests to models cost; what each figure counts: see ``Usage`` in common.proto."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_seconds: float = 0.0
    computed_prompt_tokens: int = 0
    computed_completion_tokens: int = 0
    prefix_saved_tokens: int = 0
    cache_saved_tokens: int = 0
    cost_micro_usd: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Both together."""
        # Most scorers cost nothing, and an item adds several costs up.
        if other is NO_USAGE:
            return self
        if self is NO_USAGE:
            return other
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

    @property
    def from_cache(self) -> "Usage":
        """What the same answer costs when it is known: nothing is computed, and its tokens are saved."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cache_saved_tokens=self.prompt_tokens + self.completion_tokens,
        )


NO_USAGE: Final = Usage()
"""What costs nothing."""


class Meter:
    """Sums up what was spent, also when what comes next fails.

    Attributes:
        usage: the sum so far.
    """

    def __init__(self) -> None:
        self.usage = NO_USAGE

    def add(self, usage: Usage) -> None:
        """Add a cost."""
        self.usage += usage


def with_usage(error: FleetError, usage: Usage) -> FleetError:
    """Return the error with what was spent before it, for whoever books it: in its metadata."""
    told = {USAGE_PREFIX + each.name: str(value) for each in fields(usage) if (value := getattr(usage, each.name))}
    return _with_metadata(error, {**without_usage(error).metadata, **told})


def without_usage(error: FleetError) -> FleetError:
    """Return the error for somebody who shares it: what was spent is booked to another."""
    return _with_metadata(
        error, {key: value for key, value in error.metadata.items() if not key.startswith(USAGE_PREFIX)}
    )


def usage_of(error: FleetError) -> Usage:
    """Return what ``with_usage`` put into an error; what is not there, or no number, is 0: a peer may have said it."""
    figures = {each.name: _figure(error.metadata, each.name) for each in fields(Usage)}
    return Usage(**figures)  # type: ignore[arg-type]  # one field is a float, the others are ints: _figure minds it


def _figure(metadata: Mapping[str, str], name: str) -> float:
    told = metadata.get(USAGE_PREFIX + name, "0")
    try:
        value = float(told) if name == "engine_seconds" else int(told)
    except ValueError:
        return 0
    return value if 0 <= value < float("inf") else 0


def _with_metadata(error: FleetError, metadata: Mapping[str, str]) -> FleetError:
    if metadata == error.metadata:
        return error
    told = error.again()
    told.metadata = dict(metadata)
    return told
