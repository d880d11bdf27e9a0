"""Fits the n-gram guard's classifier: logistic regression on what a teacher says of texts."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.distillation.targets import checked_targets
from services.safety.guard_file import UNSAFE_LABEL
from services.safety.ngram_model import (
    USUAL_SETTINGS,
    NgramModel,
    NgramSettings,
    count_ngrams,
    prepare,
    scaled,
    words_of,
)

INVERSE_REGULARISATION: Final = 10.0
_MOST_STEPS: Final = 300

Numbers = NDArray[np.float64]


def fit_ngrams(
    texts: Sequence[str],
    unsafe_targets: ArrayLike,
    *,
    settings: NgramSettings = USUAL_SETTINGS,
    category_targets: Mapping[str, ArrayLike] | None = None,
    inverse_regularisation: float = INVERSE_REGULARISATION,
) -> NgramModel:
    """Return a classifier that says of texts what the targets say. Takes processor time.

    A target between 0 and 1 counts as that share of an unsafe and the rest of a safe text, so the fit is to a
    teacher's probabilities, not only to its decisions (distillation: Hinton et al. 2015, arXiv:1503.02531).

    Args:
        texts: to learn from.
        unsafe_targets: one a text, from 0 to 1; decisions will do.
        settings: which n-grams are counted.
        category_targets: of categories that the classifier is to name, by code; one a text each.
        inverse_regularisation: C of logistic regression; smaller trusts single n-grams less.

    Raises:
        InvalidArgumentError: the targets are not as many as the texts, no shares, or all on one side of 0.5.
    """
    targets = {UNSAFE_LABEL: unsafe_targets, **(category_targets or {})}
    columns = [checked_targets(label, values, len(texts)) for label, values in targets.items()]
    prepared = [prepare(text, settings) for text in texts]
    counts = count_ngrams(prepared, settings)
    scale = np.concatenate([inverse_frequencies(each) for each in counts])
    seen = np.flatnonzero(scale)
    rows = _side_by_side([scaled(each, part) for each, part in zip(counts, np.split(scale, 2), strict=True)], seen)
    weight, bias = np.zeros((len(scale), len(columns))), np.zeros(len(columns))
    for index, column in enumerate(columns):
        weight[seen, index], bias[index] = _fitted(rows, column, inverse_regularisation)
    known = frozenset(word for text in prepared for word in words_of(text))
    # As it will be read from its file, so that both say the same.
    weight, bias, scale = (each.astype(np.float32).astype(np.float64) for each in (weight, bias, scale))
    return NgramModel(settings, tuple(targets), weight, bias, scale, known)


def inverse_frequencies(counts: Any) -> Numbers:
    """Return ln((1 + texts) / (1 + texts with the n-gram)) + 1 for each; 0 for those that no text has."""
    with_ngram = np.bincount(counts.indices, minlength=counts.shape[1])
    smoothed: Numbers = np.log((1 + counts.shape[0]) / (1 + with_ngram)) + 1
    return np.where(with_ngram > 0, smoothed, 0.0)


def _fitted(rows: Any, targets: Numbers, inverse_regularisation: float) -> tuple[Numbers, float]:
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    unsafe, safe = np.flatnonzero(targets > 0), np.flatnonzero(targets < 1)
    regression = LogisticRegression(C=inverse_regularisation, max_iter=_MOST_STEPS)
    regression.fit(
        vstack([rows[unsafe], rows[safe]]),
        np.repeat([1, 0], [len(unsafe), len(safe)]),
        sample_weight=np.concatenate([targets[unsafe], 1 - targets[safe]]),
    )
    return regression.coef_[0], float(regression.intercept_[0])


def _side_by_side(blocks: Sequence[Any], columns: NDArray[np.intp]) -> Any:
    from scipy.sparse import hstack

    return hstack(blocks, format="csc")[:, columns].tocsr()
