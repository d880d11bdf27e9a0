"""What earlier models' results say of items beforehand: features of each item, and how much they have been worth."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.special import logit

from services.aggregation.sequential.draws import Flags, Items, Values
from services.aggregation.sequential.logistic import Prior, fitted

_FEWEST_MODELS: Final = 6
_MOST_COMPONENTS: Final = 8
_MOST_TARGETS: Final = 5
_MOST_GROUPS: Final = 40
_RECENT: Final = 0.6
_PREDICTED_WEIGHT: Final = 0.25
_VARIANCE: Final = 1 / 6
_VARIANCE_WEIGHT: Final = 3.0
_WEAK_RIDGE: Final = 1.0
# Columns of the features.
_CARRIED: Final = 2
_DIFFICULTY: Final = 3


@dataclass(frozen=True, slots=True)
class History:
    """Results of earlier models on the same items.

    Attributes:
        scores: [models, items], from 0 to 1; NaN where an item was not run. Oldest first; the last is the new model's
            predecessor.
        groups: the group (category) of each item, numbered from 0; None if there are none.
        is_sequence: the models are checkpoints of one training run.
        predicted: [models, items]: what was expected of items that were not run; NaN where nothing was.
    """

    scores: Values
    groups: Items | None = None
    is_sequence: bool = True
    predicted: Values | None = None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of the items beforehand.

    Attributes:
        features: [items, features]; the first is 1.
        prior: of their coefficients for the next model.
    """

    features: Values
    prior: Prior


def knowledge_of(history: History) -> Knowledge:
    """Learn from the models before how well the features predict the next one.

    Some earlier models are predicted from the others as the next one will be. Coefficients fitted to all of them at
    once are the prior's centre, and how far those fitted to each are from it its spread (empirical Bayes, with three
    pseudo-models of variance 1/6). The sign of a principal component means nothing, so components' coefficients are
    expected to be 0.

    Args:
        history: at least one model.

    Raises:
        ValueError: no model has a result.
    """
    history = _without_empty(history)
    features, is_component = _features(history, np.arange(len(history.scores)))
    weak = _weak(features.shape[1])
    examples = [_example(history, target) for target in _targets(history)]
    if not examples:
        return Knowledge(features, weak)
    centre = np.zeros(len(is_component))
    centre[~is_component] = _shared(examples, weak.centre[~is_component])
    deviations = np.zeros(len(is_component))
    for values, components, scores in examples:
        around = _aligned(centre, is_component, components)
        own = fitted(values, scores, Prior(around, np.full(len(around), _WEAK_RIDGE)))
        deviations += (_aligned(own, components, is_component) - centre) ** 2
    variance = (_VARIANCE_WEIGHT * _VARIANCE + deviations) / (_VARIANCE_WEIGHT + len(examples))
    return Knowledge(features, Prior(centre, 1 / variance))


def _shared(examples: list[tuple[Values, Flags, Values]], weak: Values) -> Values:
    """Return what coefficients the examples share; each has an intercept of its own, whose mean is returned."""
    count = len(examples)
    features = np.concatenate([values[:, ~components] for values, components, _ in examples])
    scores = [each for _, _, each in examples]
    own = np.repeat(np.eye(count), [len(each) for each in scores], axis=0)
    prior = Prior(np.concatenate([np.zeros(count), weak[1:]]), np.full(count + len(weak) - 1, _WEAK_RIDGE))
    found = fitted(np.concatenate([own, features[:, 1:]], axis=1), np.concatenate(scores), prior)
    return np.concatenate([[found[:count].mean()], found[count:]])


def _weak(count: int) -> Prior:
    """Return the prior of those who know no example: difficulties and carried predictions are logits themselves."""
    centre = np.zeros(count)
    centre[_DIFFICULTY] = centre[_CARRIED] = 1.0
    return Prior(centre, np.full(count, _WEAK_RIDGE))


def _without_empty(history: History) -> History:
    """Leave out models without a result."""
    has = np.isfinite(history.scores).any(axis=1)
    if not has.any():
        raise ValueError("no model has a result")
    predicted = None if history.predicted is None else history.predicted[has]
    return replace(history, scores=history.scores[has], predicted=predicted)


def _example(history: History, target: int) -> tuple[Values, Flags, Values]:
    """Return features of the items that a model ran, which are components, and the model's results."""
    known = np.isfinite(history.scores[target])
    values, components = _features(history, _rows_for(history, target))
    return values[known], components, history.scores[target][known]


def _targets(history: History) -> list[int]:
    """Return the models to learn from, those first that are most like the next one."""
    count = len(history.scores)
    if count < 2:
        return []
    if history.is_sequence:
        chosen = list(range(count - 1, 0, -1))
    else:
        means = np.nanmean(history.scores, axis=1)
        chosen = np.argsort(np.abs(means - means[-1]), kind="stable").tolist()
    return [each for each in chosen if np.isfinite(history.scores[each]).sum() >= 30][:_MOST_TARGETS]


def _rows_for(history: History, target: int) -> Items:
    """Return the models that predict a target, its predecessor last: of unrelated models, one about as good."""
    if history.is_sequence:
        return np.arange(target)
    others = np.delete(np.arange(len(history.scores)), target)
    means = np.nanmean(history.scores, axis=1)
    nearest = others[np.argmin(np.abs(means[others] - means[target]))]
    return np.append(others[others != nearest], nearest)


def _aligned(coefficients: Values, components: Flags, wanted: Flags) -> Values:
    """Return coefficients for as many components as wanted: those that are missing are 0."""
    aligned = np.zeros(len(wanted))
    aligned[~wanted] = coefficients[~components]
    count = min(int(components.sum()), int(wanted.sum()))
    aligned[np.flatnonzero(wanted)[:count]] = coefficients[np.flatnonzero(components)[:count]]
    return aligned


def _features(history: History, rows: Items) -> tuple[Values, Flags]:
    """Return the items' features from some of the models, and which of them are components.

    Of items that the predecessor ran: their difficulty, its result by itself and with the difficulty's size, for
    checkpoints a recent mean and how often the result changed lately, and principal components of all results. Of the
    others the logit of what was expected of it. Of all: an intercept and the group.
    """
    past = history.scores[rows]
    predicted = np.full(past.shape, np.nan) if history.predicted is None else history.predicted[rows]
    seen = np.isfinite(past)
    is_predicted = ~seen & np.isfinite(predicted)
    filled = np.where(seen, past, np.where(is_predicted, predicted, 0.0))
    weights = seen + _PREDICTED_WEIGHT * is_predicted
    overall = float((filled * weights).sum() / weights.sum())
    total = weights.sum(axis=0)
    means = ((filled * weights).sum(axis=0) + overall) / (total + 1.0)
    filled = np.where(weights > 0, filled, means)
    difficulty = logit(((means * total) + 0.5) / (total + 1.0))
    latest = filled[-1] - 0.5
    ran = seen[-1].astype(np.float64)
    recent = _recent(filled, weights, means) if history.is_sequence else [difficulty]
    carried = np.where(is_predicted[-1], logit(np.clip(filled[-1], 0.005, 0.995)), recent[0])
    parts = [np.ones(past.shape[1]), 1 - ran, (1 - ran) * carried, ran * difficulty]
    parts += [ran * each for each in (latest, latest * np.abs(difficulty), *recent[1 - history.is_sequence :])]
    components = [ran * each for each in _components(filled, means)]
    values = np.stack([*parts, *components, *_groups(history.groups)], axis=1)
    is_component = np.zeros(values.shape[1], dtype=np.bool_)
    is_component[len(parts) : len(parts) + len(components)] = True
    return values, is_component


def _recent(filled: Values, weights: Values, means: Values) -> list[Values]:
    """Return a recent mean's logit (a result counts 0.6 of the next), the like of changes, and one result more."""
    decays = (_RECENT ** np.arange(len(filled) - 1, -1, -1))[:, None]
    level = ((filled * weights * decays).sum(axis=0) + 0.3 * means) / ((weights * decays).sum(axis=0) + 0.3)
    recent = logit(np.clip(level, 0.02, 0.98))
    moved = np.abs(np.diff(filled, axis=0))
    changes = (moved * decays[1:]).sum(axis=0) / (decays[1:].sum() + 0.3)
    before = filled[-2] - 0.5 if len(filled) > 1 else filled[-1] - 0.5
    return [recent, (filled[-1] - 0.5) * changes, before]


def _components(filled: Values, means: Values) -> list[Values]:
    """Return principal components of the items over the models, each with a standard deviation of 1."""
    if len(filled) < _FEWEST_MODELS:
        return []
    centred = filled - means[None, :]
    centred -= centred.mean(axis=1, keepdims=True)
    count = min(_MOST_COMPONENTS, len(filled) // 3)
    _, vectors = np.linalg.eigh(centred @ centred.T)
    components = vectors[:, ::-1][:, :count].T @ centred
    spread = components.std(axis=1, keepdims=True)
    return list(components / np.where(spread > 1e-9, spread, 1.0))


def _groups(groups: Items | None) -> list[Values]:
    if groups is None or not 1 < int(groups.max()) + 1 <= _MOST_GROUPS:
        return []
    return [(groups == each).astype(np.float64) for each in range(int(groups.max()) + 1)]
