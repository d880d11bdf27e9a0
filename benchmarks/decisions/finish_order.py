"""A fleet in which wrong answers take longer: what reading results in the order in which they finish does to a gate."""

import heapq
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions.replay import ALPHA
from services.aggregation.sequential.questions import DecisionState, GateRule
from services.aggregation.sequential.task import SequentialTask

_IN_FLIGHT: Final = 256
_SLOWER: Final = 4.0


def false_passes(scores: NDArray[np.float64], seed: int, repeats: int) -> dict[str, float]:
    """Return how often a gate just above the truth passes if wrong answers take four times as long.

    ``completion_order_false_pass`` is of results that are taken in draw order as they complete,
    ``finish_order_false_pass`` of the same results taken as they finish.

    Args:
        scores: of one model, 0 or 1.
        seed: of the order and the durations.
        repeats: simulated runs.
    """
    passed = {"completion_order_false_pass": 0, "finish_order_false_pass": 0}
    chance, size = np.random.default_rng(seed), len(scores)
    rule = GateRule(float(scores.mean()) + 1 / size, false_pass=ALPHA, false_fail=ALPHA)
    for _ in range(repeats):
        task = SequentialTask(size, int(chance.integers(2**31)), (rule,), whole_scores=True)
        task.begin_batch(count=size)
        drawn = scores[task.next_draws(size).items]
        finished = _finish_order(chance.exponential(size=size) * np.where(drawn > 0, 1.0, _SLOWER))
        passed["completion_order_false_pass"] += _passes(task, drawn, finished)
        careless = SequentialTask(size, 0, (rule,), whole_scores=True)
        careless.begin_batch(count=size)
        careless.next_draws(size)
        [decision] = careless.observe(drawn[finished])
        passed["finish_order_false_pass"] += decision.state is DecisionState.PASSED
    return {name: count / repeats for name, count in passed.items()}


def _passes(task: SequentialTask, drawn: NDArray[np.float64], finished: NDArray[np.int64]) -> bool:
    """Hand over the longest completed prefix now and then, until the gate is decided."""
    is_done = np.zeros(len(drawn), np.bool_)
    for start in range(0, len(finished), _IN_FLIGHT):
        is_done[finished[start : start + _IN_FLIGHT]] = True
        until = len(drawn) if is_done.all() else int(np.argmin(is_done))
        [decision] = task.observe(drawn[task.observed : until])
        if decision.state is not DecisionState.UNDECIDED:
            return decision.state is DecisionState.PASSED
    return False


def _finish_order(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the order in which requests finish when a bounded number is in flight, started in draw order."""
    running: list[tuple[float, int]] = []
    finished, now = [], 0.0
    for number, duration in enumerate(seconds):
        if len(running) == _IN_FLIGHT:
            now, ended = heapq.heappop(running)
            finished.append(ended)
        heapq.heappush(running, (now + float(duration), number))
    while running:
        finished.append(heapq.heappop(running)[1])
    return np.array(finished)
