"""A whole training run whose checkpoints are all decided early, each from what was really evaluated of those before."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions.matrices import Matrix
from benchmarks.decisions.replay import ALPHA, begin_batch
from services.aggregation.sequential.history import History
from services.aggregation.sequential.predictions import Predictor
from services.aggregation.sequential.questions import DecisionState, GateRule
from services.aggregation.sequential.task import SequentialTask

_MARGIN: Final = 0.02
_REMEMBERED: Final = 12


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What a training run came to.

    Attributes:
        shares: of the items, for each checkpoint after the first, which is evaluated in full.
        wrong: whether its gate was decided wrongly.
    """

    shares: list[float]
    wrong: list[bool]


def replay_training_run(matrix: Matrix, rule: str, seed: int) -> TrainingRun:
    """Ask of every checkpoint whether it is less than 2 points worse, or 2 points better, than the one before.

    The predecessor's mean is taken as given. Seeds are fresh for every checkpoint: history that was drawn with the
    same seed would know which items come next.
    """
    chance, size = np.random.default_rng(seed), matrix.scores.shape[1]
    rows, expectations = [matrix.scores[0]], [np.full(size, np.nan)]
    found = TrainingRun([], [])
    for model in range(1, len(matrix.scores)):
        scores = matrix.scores[model]
        threshold = float(matrix.scores[model - 1].mean()) + _MARGIN * float(chance.choice([-1, 1]))
        gate = GateRule(threshold, false_pass=ALPHA, false_fail=ALPHA)
        task = SequentialTask(size, int(chance.integers(2**31)), (gate,), whole_scores=matrix.is_whole)
        history = History(
            np.stack(rows[-_REMEMBERED:]),
            matrix.groups,
            is_sequence=True,
            predicted=np.stack(expectations[-_REMEMBERED:]),
        )
        predictor = Predictor(history)
        items = _run(task, predictor, rule, scores)
        [decision] = task.decisions
        after = decision.decided_after or size
        found.shares.append(after / size)
        found.wrong.append((decision.state is DecisionState.PASSED) != (float(scores.mean()) >= threshold))
        seen = items[:after]
        predictor.fit(seen, scores[seen])
        row = np.full(size, np.nan)
        row[seen] = scores[seen]
        rows.append(row)
        expectations.append(predictor.plan(task.left).predictions)
    return found


def _run(task: SequentialTask, predictor: Predictor, rule: str, scores: NDArray[np.float64]) -> NDArray[np.int64]:
    items: list[NDArray[np.int64]] = []
    while not task.is_decided and not task.is_exhausted:
        begin_batch(task, predictor, rule, scores, items)
        draws = task.next_draws(task.size)
        task.observe(scores[draws.items])
        items.append(draws.items)
    return np.concatenate(items)
