"""What the ledger acknowledged is counted, with labels that stay few whatever plug-ins invent."""

from prometheus_client import CollectorRegistry

from services.evaluation.runs.outcome import Failure, ItemOutcome
from services.evaluation.runs.outcome_metrics import OutcomeMetrics


def outcome(reason: str = "") -> ItemOutcome:
    if reason:
        return ItemOutcome("t", "i", 0, 0, None, Failure(reason, "why"))
    return ItemOutcome("t", "i", 0, 0, {"m": 1.0}, None)


def test_outcomes_are_counted_by_result_and_failures_by_reason() -> None:
    registry = CollectorRegistry()
    metrics = OutcomeMetrics(registry)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"evalfleet_evaluation_{name}_total", labels)

    # From the start, so that the first of them is a rise.
    assert (value("outcomes", result="scored"), value("outcomes", result="failed")) == (0, 0)
    metrics.count([outcome(), outcome(), outcome("LATE")])
    assert (value("outcomes", result="scored"), value("outcomes", result="failed")) == (2, 1)
    metrics.count([outcome(f"R{number}") for number in range(100)])
    metrics.count([outcome("LATE"), outcome("R99")])
    assert value("failures", reason="LATE") == 2
    assert value("failures", reason="R48") == 1
    assert value("failures", reason="R99") is None
    assert value("failures", reason="other") == 52
    assert value("outcomes", result="failed") == 103
