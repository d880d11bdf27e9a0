"""Which figures of a set a task's results have, told by the names of its metrics, and their collection."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import structlog

from services.aggregation.intervals import Interval
from services.aggregation.measures.set_figures import (
    Figure,
    ResampleBudget,
    Values,
    calibration_error,
    ratio,
    signed_ratio,
    signed_share,
    transformed,
)
from services.aggregation.records import Observation, Scored

_ALL_ITEMS: Final = ""
_LARGEST_EXPONENT: Final = math.log(1.7e308)
_FEWEST_RESAMPLED: Final = 30
"""Of a smaller group a bootstrap's interval says little; the whole set has one however small it is."""


@dataclass(frozen=True, slots=True)
class SetDefinition:
    """A figure that tasks have which report some metrics under the names of the scorers that give them.

    Attributes:
        name: of the figure.
        metrics: what it is made of; every one is needed.
        compute: the figure of [items, metrics].
        only: column and value of the items that it is about; ``None``: all.
    """

    name: str
    metrics: tuple[str, ...]
    compute: Callable[[Values, float, ResampleBudget], Figure | None]
    only: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class SetMeasure:
    """A figure of a task's items, or of those of one group (``column=value``), that were scored.

    Attributes:
        item_count: items behind it.
        excluded_count: items that it is about and leaves out, since they failed or lack one of its metrics.
    """

    task: str
    name: str
    group: str
    value: float
    interval: Interval | None
    item_count: int
    excluded_count: int = 0


def _perplexity(values: Values, confidence_level: float, _budget: ResampleBudget) -> Figure | None:
    return transformed(ratio(values, confidence_level), _exponential)


def _bits(values: Values, confidence_level: float, _budget: ResampleBudget) -> Figure | None:
    return transformed(ratio(values, confidence_level), lambda nats: nats / math.log(2))


def _ambiguous(values: Values, confidence_level: float, _budget: ResampleBudget) -> Figure | None:
    return signed_share(values, confidence_level)


def _disambiguated(values: Values, confidence_level: float, _budget: ResampleBudget) -> Figure | None:
    return signed_ratio(values, confidence_level)


def _exponential(exponent: float) -> float:
    return math.exp(exponent) if exponent < _LARGEST_EXPONENT else math.inf


_PEOPLE: Final = ("biased", "counter_biased")
DEFINITIONS: Final = (
    SetDefinition("bias_ambiguous", _PEOPLE, _ambiguous, ("context_condition", "ambig")),
    SetDefinition("bias_disambiguated", _PEOPLE, _disambiguated, ("context_condition", "disambig")),
    SetDefinition("calibration_error", ("confidence", "correct"), calibration_error),
    SetDefinition("corpus_bits_per_byte", ("nats", "bytes"), _bits),
    SetDefinition("corpus_byte_perplexity", ("nats", "bytes"), _perplexity),
    SetDefinition("corpus_word_perplexity", ("nats", "words"), _perplexity),
    SetDefinition("corpus_token_perplexity", ("nats", "tokens"), _perplexity),
)


class SetTally:
    """Collects what the figures of one task need; holds the values of every item of a task that has such metrics.

    Args:
        task: its name.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._values: dict[tuple[int, str], array[float]] = {}
        self._excluded: Counter[tuple[int, str]] = Counter()
        self._log: Any = structlog.get_logger(__name__)

    def add_item(self, samples: Sequence[Observation]) -> None:
        """Take one item: all of its samples. One that failed, or lacks a metric, is counted and no part of a figure."""
        scored = [each.outcome.metrics for each in samples if isinstance(each.outcome, Scored)]
        groups = samples[0].groups
        for index, definition in enumerate(DEFINITIONS):
            if definition.only is not None and groups.get(definition.only[0]) != definition.only[1]:
                continue
            keys = [(index, group) for group in _groups(groups, definition)]
            if len(scored) == len(samples) and all(name in each for each in scored for name in definition.metrics):
                row = [math.fsum(metrics[name] for metrics in scored) / len(scored) for name in definition.metrics]
                for key in keys:
                    self._values.setdefault(key, array("d")).extend(row)
            else:
                self._excluded.update(keys)

    def measures(self, confidence_level: float, budget: ResampleBudget, *, of_groups: bool) -> Iterator[SetMeasure]:
        """Yield the figures of all items, or those of groups, ordered by name as defined, then by group.

        Args:
            confidence_level: of the intervals.
            budget: that figures whose intervals take resampling share, in this order.
            of_groups: those of groups.
        """
        # There are as many whole sets as tasks; groups may be any number.
        budget.may_overdraw = not of_groups
        for key in sorted(each for each in self._values if (each[1] != _ALL_ITEMS) == of_groups):
            index, group = key
            definition = DEFINITIONS[index]
            values = np.asarray(self._values[key]).reshape(-1, len(definition.metrics))
            allowed = ResampleBudget(0) if of_groups and len(values) < _FEWEST_RESAMPLED else budget
            figure = self._figure(definition, values, confidence_level, allowed)
            if figure is not None:
                yield SetMeasure(
                    self._task,
                    definition.name,
                    group,
                    figure.value,
                    figure.interval,
                    len(values),
                    self._excluded[key],
                )

    def _figure(
        self, definition: SetDefinition, values: Values, confidence_level: float, budget: ResampleBudget
    ) -> Figure | None:
        """Compute a figure; one whose metrics are not what it is defined for has none, and takes no other one along."""
        try:
            with np.errstate(all="ignore"):
                figure = definition.compute(values, confidence_level, budget)
        except (ArithmeticError, ValueError) as error:
            self._log.warning("set_figure_impossible", task=self._task, figure=definition.name, error=str(error))
            return None
        return None if figure is None or math.isnan(figure.value) else figure


def _groups(groups: Mapping[str, str], definition: SetDefinition) -> Iterator[str]:
    yield _ALL_ITEMS
    for column, value in groups.items():
        if definition.only is None or column != definition.only[0]:
            yield f"{column}={value}"
