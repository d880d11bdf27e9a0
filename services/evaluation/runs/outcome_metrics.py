"""Counts the outcomes that the ledger has, so that a fleet that only fails items is seen to."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from services.evaluation.runs.outcome import ItemOutcome

_MOST_REASONS: Final = 50
_OTHERS: Final = "other"


class OutcomeMetrics:
    """Outcomes of items by result, and those that failed by their reason.

    Args:
        registry: receives the counters.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._outcomes = Counter(
            "evalfleet_evaluation_outcomes", "Outcomes that the ledger acknowledged.", ["result"], registry=registry
        )
        self._failures = Counter(
            "evalfleet_evaluation_failures", "Items that failed, by reason.", ["reason"], registry=registry
        )
        self._scored, self._failed = (self._outcomes.labels(each) for each in ("scored", "failed"))
        self._reasons: set[str] = set()

    def count(self, outcomes: Sequence[ItemOutcome]) -> None:
        """Count outcomes; of reasons, which plug-ins may invent, the first have labels of their own."""
        for each in outcomes:
            if each.failure is None:
                self._scored.inc()
                continue
            self._failed.inc()
            reason = each.failure.reason
            if reason not in self._reasons:
                if len(self._reasons) >= _MOST_REASONS:
                    reason = _OTHERS
                self._reasons.add(reason)
            self._failures.labels(reason).inc()
