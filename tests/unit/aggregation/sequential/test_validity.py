"""How often answers are wrong: at most as often as promised, whatever is predicted, weighted, and finished first."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from services.aggregation.sequential.questions import (
    DecisionState,
    Direction,
    GateRule,
    PrecisionRule,
    Question,
    RareRule,
)
from services.aggregation.sequential.rare import RareGate
from services.aggregation.sequential.task import SequentialTask

REPEATS = 120
# Five percent, and three standard errors of a share of so many repeats.
TOLERATED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / REPEATS)


def binary(size: int, right: int) -> NDArray[np.float64]:
    return (np.arange(size) < right).astype(float)


def adversary(
    kind: str, scores: NDArray[np.float64], seen: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Predictions and weights that know more than anybody can, or less; ``seen`` are the scores so far."""
    if kind == "none":
        return None, None
    good = np.where(scores > 0, 0.9, 0.1)
    if kind == "right":
        return good, np.where(scores > 0, 0.5, 2.0)
    if kind == "wrong":
        return np.asarray(1.0 - good), np.where(scores > 0, 2.0, 0.3)
    # Flatters or slanders depending on how things go, and draws what has been rare.
    is_high = len(seen) > 0 and seen.mean() > 0.6
    return np.full(len(scores), 0.99 if is_high else 0.01), np.where((scores > 0) == is_high, 0.2, 3.0)


@pytest.mark.parametrize("kind", ["none", "right", "wrong", "moody"])
def test_errors_are_rare_whatever_is_predicted(kind: str) -> None:
    size, right = 200, 120
    scores = binary(size, right)
    rules: list[Question] = [GateRule((right + 1) / size), GateRule((right - 1) / size, Direction.AT_MOST)]
    # Ranges are dear to compute: two kinds show that they use the same bets.
    has_range = kind in ("none", "moody")
    rules += [PrecisionRule(0.12)] if has_range else []
    wrong = np.zeros(3)
    for seed in range(REPEATS):
        task = SequentialTask(size, seed, rules, whole_scores=True)
        seen = np.empty(0)
        while not task.is_exhausted:
            predictions, weights = adversary(kind, scores, seen)
            task.begin_batch(predictions, weights)
            drawn = scores[task.next_draws(size).items]
            task.observe(drawn)
            seen = np.concatenate([seen, drawn])
        is_missed = has_range and not _holds(task, right / size)
        wrong += [*(each.state is DecisionState.PASSED for each in task.decisions[:2]), is_missed]
    assert (wrong / REPEATS <= TOLERATED).all(), wrong / REPEATS


def _holds(task: SequentialTask, mean: float) -> bool:
    lower, upper = task.claimed_range()
    return lower - 1e-9 <= mean <= upper + 1e-9


def test_results_are_valid_in_draw_order_when_hard_items_finish_last_and_not_in_finish_order() -> None:
    size, right, in_flight = 600, 360, 60
    scores = binary(size, right)
    rules = (GateRule((right + 1) / size), PrecisionRule(0.15))
    passed, missed = {"draw order": 0, "finish order": 0}, {"draw order": 0, "finish order": 0}
    repeats = 40
    for seed in range(repeats):
        task = SequentialTask(size, seed, rules, whole_scores=True)
        task.begin_batch(count=size)
        drawn = scores[task.next_draws(size).items]
        # In each window of requests the wrong answers take four times as long.
        slow = np.random.default_rng(seed).exponential(size=size) * np.where(drawn > 0, 1.0, 4.0)
        finished = np.argsort(np.arange(size) / in_flight + slow, kind="stable")
        done = np.zeros(size, np.bool_)
        for start in range(0, size, in_flight):
            done[finished[start : start + in_flight]] = True
            until = size if done.all() else int(np.argmin(done))
            task.observe(drawn[task.observed : until])
        passed["draw order"] += task.decisions[0].state is DecisionState.PASSED
        missed["draw order"] += not _holds(task, right / size)
        naive = SequentialTask(size, seed, rules, whole_scores=True)
        naive.begin_batch(count=size)
        naive.next_draws(size)
        passed["finish order"] += naive.observe(drawn[finished])[0].state is DecisionState.PASSED
        missed["finish order"] += not _holds(naive, right / size)
    for wrong in (passed, missed):
        assert wrong["finish order"] > 0.5 * repeats
        assert wrong["draw order"] <= (0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)) * repeats


@pytest.mark.parametrize(("size", "expected"), [(500, 244), (2_000, 314), (10_000, 338)])
def test_no_violation_certifies_a_rare_rate_after_as_many_items_as_published(size: int, expected: int) -> None:
    gate = RareGate(RareRule(0.01), size)
    gate.update(np.zeros(size), np.zeros(size))
    assert gate.decision.state is DecisionState.PASSED
    assert gate.decision.decided_after == expected


@pytest.mark.parametrize(("size", "limit"), [(500, 0.01), (2_000, 0.01), (2_000, 0.05), (10_000, 0.01)])
def test_certifying_a_rare_rate_takes_little_more_than_one_planned_look(size: int, limit: float) -> None:
    """The hypergeometric test at a fixed number of items forbids looking before; no valid rule can need fewer."""
    looks = np.arange(1, size)
    chances = stats.hypergeom.pmf(0, size, round(limit * size), looks)
    planned = int(looks[np.argmax(chances <= 0.05)])
    gate = RareGate(RareRule(limit), size)
    gate.update(np.zeros(size), np.zeros(size))
    assert planned <= (gate.decision.decided_after or 0) <= 1.25 * planned


@pytest.mark.parametrize("violations", [19, 20])
def test_rare_rates_are_rarely_judged_wrongly(violations: int) -> None:
    size = 2000
    wrong = 0
    for seed in range(REPEATS):
        drawn = np.random.default_rng(seed).permutation(binary(size, violations))
        gate = RareGate(RareRule(0.01), size)
        gate.update(drawn, drawn)
        wrong += (gate.decision.state is DecisionState.PASSED) != (violations < 20)
    assert wrong / REPEATS <= TOLERATED


@settings(max_examples=40)
@given(st.lists(st.booleans(), max_size=12))
def test_bets_on_an_untrue_rate_cannot_expect_to_win_from_any_state(past: list[bool]) -> None:
    """Six of 30 are too many: «rare» must not gain on average in any list with six or more, «not rare» in any other."""
    size, forbidden, rule = 30, 6, RareRule(0.2, 1e-9, 1e-9)

    def capitals(draws: list[bool]) -> tuple[float, float]:
        gate = RareGate(rule, size)
        for each in draws:
            gate.update(np.array([float(each)]), np.array([float(each)]))
        return math.exp(gate.decision.log_evidence_pass), math.exp(gate.decision.log_evidence_fail)

    now, hit, missed = (capitals(each) for each in (past, [*past, True], [*past, False]))
    seen, left = sum(past), size - len(past)
    assume(seen < forbidden)
    for violations in range(seen, seen + left + 1):
        chance = (violations - seen) / left
        kind = 0 if violations >= forbidden else 1
        assert chance * hit[kind] + (1 - chance) * missed[kind] <= now[kind] * (1 + 1e-9)


@pytest.mark.filterwarnings("error")
def test_bets_that_lost_everything_say_so_and_decide_nothing() -> None:
    """With a limit of nearly all items, every bet on «too many» stakes all on the next draw being a violation."""
    gate = RareGate(RareRule(0.9), 100)
    gate.update(np.zeros(5), np.zeros(5))
    assert gate.decision.log_evidence_fail == -math.inf
    assert gate.decision.state is DecisionState.PASSED
    unsure = RareGate(RareRule(0.9), 100)
    unsure.update(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert unsure.decision.log_evidence_fail == -math.inf
    assert unsure.decision.state is DecisionState.UNDECIDED


def test_a_rare_gate_does_not_depend_on_how_draws_are_cut_and_takes_failures_at_their_worst() -> None:
    drawn = np.random.default_rng(2).permutation(binary(900, 30))
    whole, parts = RareGate(RareRule(0.02), 900), RareGate(RareRule(0.02), 900)
    whole.update(drawn, drawn)
    for start in range(0, 900, 13):
        parts.update(drawn[start : start + 13], drawn[start : start + 13])
    assert parts.decision == whole.decision
    assert whole.decision.state is DecisionState.FAILED
    unsure = RareGate(RareRule(0.02), 900)
    unsure.update(np.zeros(900), np.ones(900))
    assert unsure.decision.state is DecisionState.UNDECIDED
    with pytest.raises(ValueError, match="0 or 1"):
        unsure.update(np.array([0.5]), np.array([0.5]))
