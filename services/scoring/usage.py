"""What judging cost."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

USAGE_PREFIX: Final = "usage_"
"""Before the names of the metadata that say what a failed judgement cost."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls of the generation service cost; what each figure counts: see ``Usage`` in common.proto."""

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
        return Usage(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def from_cache(self) -> "Usage":
        """What the same answer costs when it is known: nothing is computed, and its tokens are saved."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cache_saved_tokens=self.prompt_tokens + self.completion_tokens,
        )


def usage_metadata(usage: Usage) -> dict[str, str]:
    """Return what is not zero, as the metadata of an error."""
    return {USAGE_PREFIX + each.name: str(value) for each in fields(usage) if (value := getattr(usage, each.name))}


def usage_from_metadata(metadata: Mapping[str, str]) -> Usage:
    """Return what ``usage_metadata`` wrote; what is not there is 0.

    Raises:
        ValueError: a figure is no number.
    """
    told = {each.name: metadata.get(USAGE_PREFIX + each.name, "0") for each in fields(Usage)}
    # Which name has which type is more than the type of a dictionary can say.
    return Usage(**{name: float(value) if name == "engine_seconds" else int(value) for name, value in told.items()})  # type: ignore[arg-type]
