"""The queue with which the service's latencies under load are compared."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.safety.__main__ import queued


def test_a_lone_call_takes_its_own_time() -> None:
    latencies = queued([0.01, 0.03] * 500, capacity=50, rate=0.001, seed=1)
    assert latencies == pytest.approx([0.01, 0.03] * 500)


def test_at_its_capacity_it_answers_so_many_a_second() -> None:
    # All arrive at about once, so that it is never idle.
    latencies = queued([0.02] * 1000, capacity=100, rate=1e9, seed=1)
    assert max(latencies) == pytest.approx(10, rel=0.01)
    assert all(later > earlier for earlier, later in pairwise(latencies))


def test_equal_calls_at_random_times_wait_as_the_formula_for_one_server_says() -> None:
    # Pollaczek and Khinchine, for constant times: rho / (2 (1 - rho)) of one call's time.
    waited = np.mean(queued([0.01] * 200_000, capacity=100, rate=70, seed=1)) - 0.01
    assert waited == pytest.approx(0.01 * 0.7 / (2 * 0.3), rel=0.05)
