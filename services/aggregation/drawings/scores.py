"""What an item counts as, from the outcomes of its samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleOutcome:
    """One sample of an item, as the ledger holds it.

    Attributes:
        metrics: of a scored sample its scores, of a failed one the values that it counts as; without those that nobody
            knows.
    """

    item: str
    sample: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """The least and the most that an item's score can be; they are equal unless a sample's score is not known."""

    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether every sample's score is."""
        return self.low == self.high


UNKNOWN = ItemScore(0.0, 1.0)


def sample_score(metrics: Mapping[str, float], metric: str) -> ItemScore:
    """Return what one sample counts as; anything but a number from 0 to 1 leaves it open."""
    value = metrics.get(metric)
    return ItemScore(value, value) if value is not None and 0 <= value <= 1 else UNKNOWN


def item_score(samples: Sequence[ItemScore], *, is_binary: bool) -> ItemScore:
    """Return the mean over an item's samples; where scores are said to be binary, one in between is not known."""
    low = sum(each.low for each in samples) / len(samples)
    high = sum(each.high for each in samples) / len(samples)
    score = ItemScore(low, high)
    return UNKNOWN if is_binary and (low, high) not in ((0.0, 0.0), (1.0, 1.0)) else score
