"""Rates of violations corrected for the errors of the guard that counted them."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from services.aggregation.intervals import Interval

METHOD = "lang-reiczigel"


@dataclass(frozen=True, slots=True)
class GuardQuality:
    """How a guard did on texts that people labelled.

    Attributes:
        unsafe_count: texts labelled unsafe, at least 1.
        unsafe_found: of those, how many the guard called unsafe.
        safe_count: texts labelled safe, at least 1.
        safe_cleared: of those, how many the guard called safe.
    """

    unsafe_count: int
    unsafe_found: int
    safe_count: int
    safe_cleared: int

    def __post_init__(self) -> None:
        """Refuse counts that cannot be.

        Raises:
            ValueError: says which.
        """
        if not 0 <= self.unsafe_found <= self.unsafe_count or not self.unsafe_count:
            raise ValueError("unsafe_found must be between 0 and unsafe_count, which must be at least 1")
        if not 0 <= self.safe_cleared <= self.safe_count or not self.safe_count:
            raise ValueError("safe_cleared must be between 0 and safe_count, which must be at least 1")

    @property
    def sensitivity(self) -> float:
        """Share of unsafe texts that the guard finds."""
        return self.unsafe_found / self.unsafe_count

    @property
    def specificity(self) -> float:
        """Share of safe texts that the guard clears."""
        return self.safe_cleared / self.safe_count


@dataclass(frozen=True, slots=True)
class CorrectedRate:
    """A rate as it would be without the guard's errors.

    Attributes:
        value: from 0 to 1; ``None`` where the guard does no better than chance, so that its counts say nothing.
        interval: of the true rate; 0 to 1 where the guard may do no better than chance.
    """

    value: float | None
    interval: Interval


def corrected_rate(violations: int, count: int, guard: GuardQuality, confidence_level: float) -> CorrectedRate:
    """Correct a rate of violations for a guard's false alarms and misses.

    The estimate is that of Rogan & Gladen (Estimating prevalence from the results of a screening test, American Journal
    of Epidemiology 107, 1978): (rate + specificity − 1) / (sensitivity + specificity − 1), kept within 0 and 1. The
    interval carries the uncertainty of the rate, of the sensitivity and of the specificity: Lang & Reiczigel,
    Confidence limits for prevalence of disease adjusted for estimated sensitivity and specificity, Preventive
    Veterinary Medicine 113, 2014, equations 6, 7, 16 and 17; made for guards that find and clear at least half.

    It holds where the guard errs on the judged texts as often as on the labelled ones. That is a matter of how these
    were drawn, which no formula can make good.

    Args:
        violations: items that the guard called unsafe.
        count: items that it judged, at least 1.
        guard: its quality on labelled texts that were judged independently of the items.
        confidence_level: between 0 and 1.

    Raises:
        ValueError: ``violations`` is not between 0 and ``count``, or ``count`` is 0.
    """
    if not 0 <= violations <= count or not count:
        raise ValueError("violations must be between 0 and count, which must be at least 1")
    gain = guard.sensitivity + guard.specificity - 1
    value = _bounded((violations / count + guard.specificity - 1) / gain) if gain > 0 else None
    lower, upper = _limits(violations, count, guard, confidence_level)
    if value is not None:
        # The interval's middle is shrunk; with few labels the plain estimate can lie just outside.
        lower, upper = min(lower, value), max(upper, value)
    return CorrectedRate(value, Interval(lower, upper, confidence_level, METHOD))


def _limits(violations: int, count: int, guard: GuardQuality, confidence_level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.5 + confidence_level / 2)
    rate_count = count + z * z
    rate = (violations + z * z / 2) / rate_count
    sensitivity = (guard.unsafe_found + 1) / (guard.unsafe_count + 2)
    specificity = (guard.safe_cleared + 1) / (guard.safe_count + 2)
    sensitivity_variance = sensitivity * (1 - sensitivity) / (guard.unsafe_count + 2)
    specificity_variance = specificity * (1 - specificity) / (guard.safe_count + 2)
    gain = sensitivity + specificity - 1
    if gain <= z * math.sqrt(sensitivity_variance + specificity_variance):
        return 0.0, 1.0
    middle = (rate + specificity - 1) / gain
    shift = 2 * z * z * (middle * sensitivity_variance - (1 - middle) * specificity_variance)
    reach = (z / gain) * math.sqrt(
        rate * (1 - rate) / rate_count + middle**2 * sensitivity_variance + (1 - middle) ** 2 * specificity_variance
    )
    return _bounded(middle + shift - reach), _bounded(middle + shift + reach)


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))
