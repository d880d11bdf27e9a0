"""Where a value lies on a drawing, and which values are written beside it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values to places: ``least`` lies at ``start``, ``most`` at ``end``."""

    least: float
    most: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return the place of a value; one beyond the ends lies at the end."""
        part = (min(self.most, max(self.least, value)) - self.least) / ((self.most - self.least) or 1.0)
        return round(self.start + part * (self.end - self.start), 2)

    def holds(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.least <= value <= self.most


def bounds_of(values: Iterable[float]) -> tuple[float, float]:
    """Return ends that hold all values and 0: 0 and 1 for shares, else round numbers."""
    # What no drawing could show is none: ends closer than that have no round numbers between them.
    known = [0.0, *(round(each, 9) for each in values if math.isfinite(each))]
    least, most = min(known), max(known)
    if least >= 0 and most <= 1:
        return 0.0, 1.0
    ticks = ticks_of(least, most)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return math.floor(least / step) * step, math.ceil(most / step) * step


def close_bounds(values: Iterable[float]) -> tuple[float, float]:
    """Return ends that lie close around all values, on round numbers: for a line whose changes matter."""
    known = [each for each in values if math.isfinite(each)]
    least, most = min(known, default=0.0), max(known, default=1.0)
    if most - least < 0.02:
        middle = (least + most) / 2
        least, most = middle - 0.01, middle + 0.01
    step = _step(most - least)
    low, high = math.floor(least / step + 1e-9) * step, math.ceil(most / step - 1e-9) * step
    # A share is never drawn as if it could lie beyond 0 and 1.
    return (max(low, 0.0) if least >= 0 else low), (min(high, 1.0) if most <= 1 else high)


def ticks_of(least: float, most: float) -> Sequence[float]:
    """Return three to six round numbers from ``least`` to ``most``."""
    if not most > least:
        return [least]
    step = _step(most - least)
    first = math.ceil(least / step - 1e-9)
    last = math.floor(most / step + 1e-9)
    return [round(number * step, 10) + 0.0 for number in range(first, last + 1)]


def _step(width: float) -> float:
    rough = width / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= rough * 0.999), 10 * power)
