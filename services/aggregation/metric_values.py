"""The values that one metric has over the items of a run, those that nobody knows included."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from services.aggregation.corrected_rates import CorrectedRate, GuardQuality, corrected_rate
from services.aggregation.intervals import (
    Interval,
    interval_of,
    interval_with_unknown,
    mean_of,
    standard_error_of,
)
from services.aggregation.item_values import ItemValues
from services.aggregation.measures.passes import PassRates, pass_rates


@dataclass(slots=True)
class ItemSamples:
    """What the samples of one item say of one metric.

    Attributes:
        scored: values of the samples that were judged.
        counted: values that failed samples count as.
        unknown_count: samples that the model answered and whose value nobody knows.
        failure_reason: why the metric failed, for the first sample where it did; empty if it did not.
    """

    scored: list[float] = field(default_factory=list)
    counted: list[float] = field(default_factory=list)
    unknown_count: int = 0
    failure_reason: str = ""

    @property
    def known(self) -> Sequence[float]:
        """All values that there are."""
        return self.scored + self.counted if self.counted else self.scored


class MetricValues:
    """Collects items one by one; what is held grows with their different values, not with the items."""

    def __init__(self) -> None:
        self._settled = ItemValues()
        self._scored_only = ItemValues()
        # Of items with unknown samples: how many there are by (sum of the known ones, their number, number unknown).
        self._open: Counter[tuple[float, int, int]] = Counter()
        self._passes: Counter[tuple[int, int]] = Counter()
        self._is_binary = True
        self.sample_count = 0

    def add(self, samples: ItemSamples, *, notes_passes: bool) -> None:
        """Take one item; ``notes_passes``: also for ``passes``."""
        known = samples.known
        self.sample_count += len(known)
        if samples.unknown_count:
            self._open[sum(known), len(known), samples.unknown_count] += 1
        elif known:
            self._settled.add(mean_of(known))
            if notes_passes and len(known) > 1 and self._is_binary:
                self._is_binary = all(value in (0.0, 1.0) for value in known)
                self._passes[round(sum(known)), len(known)] += 1
        if samples.scored:
            self._scored_only.add(mean_of(samples.scored))

    @property
    def unjudged_count(self) -> int:
        """Items with a sample whose value is not known."""
        return self._open.total()

    @property
    def mean(self) -> float | None:
        """Mean over the items with a value; ``None`` if there are none."""
        return mean_of(values) if (values := self._counted()) else None

    @property
    def mean_scored_only(self) -> float | None:
        """Mean over the items with a judged sample, of these alone; ``None`` if there are none."""
        return mean_of(self._scored_only) if self._scored_only else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of ``mean``; ``None`` with fewer than two items."""
        return standard_error_of(self._counted())

    def interval(self, confidence_level: float) -> Interval | None:
        """Return the interval of the mean over all items, whatever those that nobody knows are from 0 to 1.

        ``None`` where no method has one, nothing is known, or known values show that the metric has another range.
        """
        if not self._open:
            return interval_of(self._settled, confidence_level)
        known = self._counted()
        if not known or not known.is_within_unit:
            return None
        return interval_with_unknown(self._completed(0.0), self._completed(1.0), confidence_level)

    def passes(self, confidence_level: float) -> tuple[PassRates, ...]:
        """Return how items with several samples do; nothing where one is neither 0 nor 1, or not known."""
        return pass_rates(self._passes, confidence_level) if self._is_binary and not self._open else ()

    def corrected(self, quality: GuardQuality, confidence_level: float) -> CorrectedRate | None:
        """Return the rate over judged items without the guard's errors; ``None`` unless every item is 0 or 1.

        Its interval holds whatever the items that nobody knows are.
        """
        if not self._scored_only or not self._scored_only.is_binary:
            return None
        violations, count = round(sum(self._scored_only)), len(self._scored_only)
        rate = corrected_rate(violations, count, quality, confidence_level)
        unknown = self.unjudged_count
        if not unknown:
            return rate
        if any(known_count for _, known_count, _ in self._open):
            return None
        low = corrected_rate(violations, count + unknown, quality, confidence_level).interval
        high = corrected_rate(violations + unknown, count + unknown, quality, confidence_level).interval
        limits = Interval(low.lower, high.upper, confidence_level, f"{low.method}-unjudged")
        return replace(rate, interval=limits)

    def _counted(self) -> ItemValues:
        """The values of all items that have one."""
        return self._with((total / count, items) for (total, count, _), items in self._open.items() if count)

    def _completed(self, value: float) -> ItemValues:
        """The values of all items with ``value`` for every sample that nobody knows."""
        return self._with(
            ((total + unknown * value) / (count + unknown), items)
            for (total, count, unknown), items in self._open.items()
        )

    def _with(self, more: Iterable[tuple[float, int]]) -> ItemValues:
        if not self._open:
            return self._settled
        values = ItemValues()
        for each in self._settled:
            values.add(each)
        for value, items in more:
            for _ in range(items):
                values.add(value)
        return values
