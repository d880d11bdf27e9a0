"""Training runs made of real checkpoints' results, with and without a drop, for the regression watch and z-tests."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.sequential.regressions import RegressionWatch, alarm_threshold

Values = NDArray[np.float64]

TOLERANCE: Final = 0.01
RATE: Final = 0.05
_CRITICAL: Final = 1.645
_NEIGHBOURS: Final = 1


@dataclass(frozen=True, slots=True)
class Drop:
    """From checkpoint ``at`` on, ``size`` of the expected score is lost for good."""

    at: int
    size: float


@dataclass(slots=True)
class Alarms:
    """The first alarm of each training run; None where there was none."""

    watch: list[int | None] = field(default_factory=list)
    z_tests: list[int | None] = field(default_factory=list)

    def false_alarms(self) -> tuple[float, float]:
        """Return the shares of runs with any alarm: of the watch, of the z-tests."""
        watch, tests = ([each is not None for each in one] for one in (self.watch, self.z_tests))
        return float(np.mean(watch)), float(np.mean(tests))


def training_run(
    scores: Values, chance: np.random.Generator, *, length: int, items: int | None, drop: Drop | None
) -> Iterator[Values]:
    """Yield checkpoints whose expected score stays what it is, but for a drop.

    A real checkpoint is taken at random; at each step every item has the result of it or of one of its neighbours, anew
    and by chance. So items are as hard, and wobble as much, as those of real checkpoints do, and nothing is learned or
    lost on the way. A drop makes right items wrong for good, each as likely as the others.

    Args:
        scores: of a real sequence, [checkpoints, items], 0 or 1.
        chance: source of randomness.
        length: checkpoints.
        items: of these so many are drawn, with replacement: a sample of questions of their kind; None: all.
        drop: of the expectation over all items; None: there is none.
    """
    centre = int(chance.integers(_NEIGHBOURS, len(scores) - _NEIGHBOURS))
    near = scores[centre - _NEIGHBOURS : centre + _NEIGHBOURS + 1]
    lost_share = 0.0 if drop is None else drop.size / float(near.mean())
    count = near.shape[1]
    # Either way in an order that has nothing to do with the items.
    near = near[:, chance.permutation(count) if items is None else chance.integers(0, count, items)]
    size = near.shape[1]
    is_lost = chance.random(size) < lost_share
    for step in range(length):
        results = near[chance.integers(0, len(near), size), np.arange(size)]
        yield np.where(is_lost, 0.0, results) if drop is not None and step >= drop.at else results


def first_alarms(
    checkpoints: Iterator[Values],
) -> tuple[int | None, int | None]:
    """Return at which checkpoint the watch, and a paired z-test against the one before, first raise an alarm."""
    watch, found, tested = RegressionWatch(TOLERANCE), None, None
    before: Values | None = None
    for index, results in enumerate(checkpoints):
        suspicion = watch.observe(results, np.arange(len(results)))
        if found is None and suspicion is not None and suspicion.log_evidence >= alarm_threshold(index, RATE):
            found = index
        if tested is None and before is not None and _is_significant(results - before):
            tested = index
        before = results
        if found is not None and tested is not None:
            break
    return found, tested


def _is_significant(differences: Values) -> bool:
    error = max(float(differences.std(ddof=1)) / len(differences) ** 0.5, 1e-12)
    return bool(float(differences.mean()) / error < -_CRITICAL)


def repeated(
    scores: Values, seed: int, *, runs: int, length: int, items: int | None = None, size: float | None = None
) -> tuple[Alarms, list[int]]:
    """Return the first alarms of some training runs, and where their drops were.

    Args:
        scores: of a real sequence.
        seed: of all chance.
        runs: training runs.
        length: checkpoints of each.
        items: see ``training_run``.
        size: of the drop; None: there is none.
    """
    chance, found, changes = np.random.default_rng(seed), Alarms(), []
    for _ in range(runs):
        drop = None if size is None else Drop(int(chance.integers(4, length // 2)), size)
        watch, tests = first_alarms(training_run(scores, chance, length=length, items=items, drop=drop))
        found.watch.append(watch)
        found.z_tests.append(tests)
        changes.append(length if drop is None else drop.at)
    return found, changes
