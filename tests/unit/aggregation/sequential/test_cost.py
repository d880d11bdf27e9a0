"""What an update costs: the new items, however many came before; and numbers that stay right for long lists."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from services.aggregation.sequential.evidence import Evidence, Terms, terms_of
from services.aggregation.sequential.gate import Gate
from services.aggregation.sequential.interval import ConfidenceSequence, PlannedEstimate, Range
from services.aggregation.sequential.questions import DecisionState, GateRule, PrecisionRule, RareRule
from services.aggregation.sequential.rare import RareGate
from services.aggregation.sequential.task import SequentialTask

MILLION = 1_000_000


def task_over(size: int, right: int, *rules: GateRule | PrecisionRule) -> tuple[SequentialTask, NDArray[np.float64]]:
    """A task whose draws are all handed out, and the scores in their order."""
    task = SequentialTask(size, 3, rules, whole_scores=True)
    task.begin_batch(count=size)
    return task, (task.next_draws(size).items < right).astype(float)


def uniform_terms(size: int) -> Terms:
    """Of a uniform order over all items, without predictions."""
    half = np.full(size, 0.5)
    return terms_of(np.arange(size), np.zeros(size, np.bool_), half, np.ones(size), half / 2)


def test_what_was_seen_is_never_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = Counter[str]()

    def counted(kind: type, name: str) -> None:
        real = getattr(kind, name)

        def counting(self: object, first: object, *rest: object) -> object:
            looked_at[kind.__name__] += len(getattr(first, "values", first))  # type: ignore[arg-type]
            return real(self, first, *rest)

        monkeypatch.setattr(kind, name, counting)

    counted(Evidence, "observe")
    for kind in (Gate, ConfidenceSequence, PlannedEstimate):
        counted(kind, "update")
    task, drawn = task_over(600, 300, GateRule(301 / 600), PrecisionRule(0.1))
    for one in drawn[:400]:
        task.observe(np.array([one]))
        task.summary()
    assert looked_at == {"Evidence": 400, "Gate": 400, "ConfidenceSequence": 400, "PlannedEstimate": 400}


@pytest.mark.parametrize("kind", ["gate", "range", "rare"])
def test_what_is_kept_does_not_grow_with_the_items(kind: str) -> None:
    size = 20_000
    drawn = np.random.default_rng(1).permutation(np.arange(size) % 2).astype(float)
    terms, evidence = uniform_terms(size), Evidence(size)
    gate, interval = Gate(GateRule(0.5 + 1 / size), size), Range(PrecisionRule(0.1), size)
    rare = RareGate(RareRule(0.5 + 1 / size), size)
    sizes = []
    for rows in (slice(0, 300), slice(300, 9_000)):
        increments = evidence.observe(drawn[rows], terms.part(rows))
        if kind == "rare":
            rare.update(drawn[rows], drawn[rows])
        else:
            (gate if kind == "gate" else interval).update(increments, increments)
        sizes.append(len(pickle.dumps((evidence, gate, interval, rare))))
    assert sizes[1] < sizes[0] + 100


def test_a_gate_just_above_the_truth_of_a_million_items_stays_right() -> None:
    right = MILLION // 3
    drawn = np.random.default_rng(1).permutation(np.arange(MILLION) < right).astype(float)
    terms = uniform_terms(MILLION)
    evidence, gate = Evidence(MILLION), Gate(GateRule((right + 1) / MILLION), MILLION, whole_scores=True)
    for start in range(0, MILLION, 250_000):
        rows = slice(start, start + 250_000)
        increments = evidence.observe(drawn[rows], terms.part(rows))
        gate.update(increments, increments)
        assert math.isfinite(gate.decision.log_evidence_pass)
        assert math.isfinite(gate.decision.log_evidence_fail)
    assert gate.decision.state is DecisionState.FAILED
    assert evidence.seen_sum == right


def test_sums_of_a_million_fractions_are_those_of_exact_arithmetic() -> None:
    scores = np.random.default_rng(1).random(MILLION)
    terms, evidence, start = uniform_terms(MILLION), Evidence(MILLION), 0
    # Cut unevenly: a sum that is carried from call to call must not lose digits either.
    for part in np.array_split(scores, 37):
        found = evidence.observe(part, terms.part(slice(start, start + len(part))))
        start += len(part)
    assert found.values[-1] == pytest.approx(math.fsum(scores.tolist()) / MILLION, rel=1e-12)
