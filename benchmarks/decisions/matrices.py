"""Reads response matrices, and says which models' results are known when one of them is replayed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.sequential.history import History

LEAST_DIFFERENCE: Final = 0.01
_RANKS_BELOW = 3
_FEWEST_ITEMS = 30


@dataclass(frozen=True, slots=True)
class Matrix:
    """Scores of models on the same items.

    Attributes:
        name: of its file.
        scores: [models, items], from 0 to 1; checkpoints oldest first.
        groups: of each item, numbered from 0; None if there are none.
        is_sequence: the models are checkpoints of one training run.
    """

    name: str
    scores: NDArray[np.float64]
    groups: NDArray[np.int64] | None
    is_sequence: bool

    @property
    def is_whole(self) -> bool:
        """Whether every score is 0 or 1."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())

    @property
    def family(self) -> str:
        """What kind of list it is: training checkpoints, or a board of some size."""
        if self.is_sequence:
            return "checkpoints"
        size = self.scores.shape[1]
        return "large_boards" if size >= 5_000 else "boards" if size >= 1_000 else "small_boards"

    def predecessor(self, model: int) -> int | None:
        """Return the checkpoint before, or on a board the model a few ranks below; None if there is none."""
        if self.is_sequence:
            return model - 1 if model else None
        order = np.argsort(self.scores.mean(axis=1), kind="stable")
        rank = int(np.flatnonzero(order == model)[0])
        below = min(_RANKS_BELOW, max(1, len(order) // 4))
        return int(order[rank - below]) if rank >= below else None

    def is_comparable(self, model: int) -> bool:
        """Whether it and its predecessor are a point or more apart."""
        before = self.predecessor(model)
        means = self.scores.mean(axis=1)
        return before is not None and abs(float(means[model] - means[before])) >= LEAST_DIFFERENCE

    def history(self, model: int) -> History:
        """Return what is known: earlier checkpoints, or on a board all other models; the predecessor is last.

        Raises:
            ValueError: the model has no predecessor.
        """
        before = self.predecessor(model)
        if before is None:
            raise ValueError("nothing came before this model")
        rows = range(model) if self.is_sequence else range(len(self.scores))
        chosen = [each for each in rows if each not in (model, before)]
        return History(self.scores[[*chosen, before]], self.groups, self.is_sequence)


def read_matrix(file: Path) -> Matrix:
    """Read an npz file with ``Y`` [models, items] and, where known, ``strata`` and ``steps``.

    Models without a score for every item are left out: replays need the truth.

    Raises:
        ValueError: there are no such scores, or they are not from 0 to 1.
    """
    with np.load(file, allow_pickle=False) as content:
        if "Y" not in content:
            raise ValueError(f"{file} has no array Y")
        scores = np.asarray(content["Y"], dtype=np.float64)
        strata: Any = content.get("strata")
        is_sequence = "steps" in content
        steps = content["steps"] if is_sequence else np.arange(len(scores))
    if scores.ndim != 2 or scores.shape[1] < _FEWEST_ITEMS:
        raise ValueError(f"{file}: Y must be models × items, with {_FEWEST_ITEMS} items at least")
    complete = np.isfinite(scores).all(axis=1)
    scores = scores[np.argsort(steps, kind="stable")][complete[np.argsort(steps, kind="stable")]]
    if len(scores) < 2 or scores.min() < 0 or scores.max() > 1:
        raise ValueError(f"{file}: needs two complete models, with scores from 0 to 1")
    groups = None
    if strata is not None and len(strata) == scores.shape[1]:
        groups = np.unique(strata, return_inverse=True)[1].astype(np.int64)
    return Matrix(file.stem, scores, groups, is_sequence)
