"""What the items of a benchmark are worth: difficulty, discrimination, and which look broken."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]

_FEWEST_MODELS: Final = 5
_SUSPICIOUS: Final = -0.2


@dataclass(frozen=True, slots=True)
class ItemAnalysis:
    """One entry an item.

    Attributes:
        difficulty: 1 − mean score over the models that have it; NaN if none has.
        discrimination: correlation of the item's scores with the models' means over the other items (corrected
            item-total correlation; Lord & Novick, Statistical Theories of Mental Test Scores, 1968); NaN where either
            does not vary.
        is_saturated: all models that have it get it fully right.
        is_dead: none of them gets anything of it.
        is_suspicious: better models get it right less often: perhaps mislabelled. Only said of five models or more.
    """

    difficulty: Values
    discrimination: Values
    is_saturated: Flags
    is_dead: Flags
    is_suspicious: Flags


def analyse_items(scores: Values) -> ItemAnalysis:
    """Analyse items from several models' scores.

    Args:
        scores: [models, items], from 0 to 1; NaN where a model has no result of an item.

    Raises:
        ValueError: there are no models or no items.
    """
    models, items = scores.shape
    if not models or not items:
        raise ValueError("needs at least one model and one item")
    has = np.isfinite(scores)
    count = has.sum(axis=0)
    filled = np.where(has, scores, 0.0)
    discrimination = _corrected_correlations(filled, has)
    with np.errstate(invalid="ignore"):
        is_suspicious = (discrimination < _SUSPICIOUS) & (count >= _FEWEST_MODELS)
    means = np.divide(filled.sum(axis=0), count, out=np.full(items, np.nan), where=count > 0)
    return ItemAnalysis(
        difficulty=np.asarray(1.0 - means, dtype=np.float64),
        discrimination=discrimination,
        is_saturated=(np.where(has, scores, 1.0) >= 1).all(axis=0) & (count > 0),
        is_dead=(filled <= 0).all(axis=0) & (count > 0),
        is_suspicious=is_suspicious,
    )


def _corrected_correlations(filled: Values, has: Flags) -> Values:
    """Correlate each item with the means over the other items, over the models that have it and another."""
    others = has.sum(axis=1, keepdims=True) - has
    rest = np.divide(filled.sum(axis=1, keepdims=True) - filled, others, out=np.zeros_like(filled), where=others > 0)
    used = (has & (others > 0)).astype(np.float64)
    count = np.maximum(used.sum(axis=0), 1.0)
    own = used * (filled - (used * filled).sum(axis=0) / count)
    rest = used * (rest - (used * rest).sum(axis=0) / count)
    spread = np.sqrt((own**2).sum(axis=0) * (rest**2).sum(axis=0))
    return np.divide((own * rest).sum(axis=0), spread, out=np.full(filled.shape[1], np.nan), where=spread > 1e-12)
