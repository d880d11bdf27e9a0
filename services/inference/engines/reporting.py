"""How engines report what they do without ever paying for it: a report that fails is logged, a counter never falls."""

import logging
from collections.abc import Mapping
from typing import Final

from services.inference.engines.seams import EngineMetrics

_logger = logging.getLogger(__name__)

_ROUNDING: Final = 1e-9
"""Share of a total by which it may fall only because its parts were added up in another order."""


def publish_or_log(metrics: EngineMetrics, values: Mapping[str, float]) -> None:
    """Publish values; a failure is logged, because whoever reports must go on with its work."""
    try:
        metrics.publish(values)
    except Exception:  # figures are worth no request
        _logger.exception("metrics_not_published")


class RisingCounters:
    """Turns totals into increments that are never negative, which Prometheus' counters, and Triton's, refuse."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}

    def increment(self, name: str, total: float) -> float:
        """Return what to add for a new total of a counter.

        A total that fell by no more than rounding is taken for the old one; one that fell further began anew, and
        counts from there.
        """
        before = self._totals.get(name, 0.0)
        if before * (1 - _ROUNDING) <= total < before:
            return 0.0
        self._totals[name] = total
        return max(total - before, 0.0)
