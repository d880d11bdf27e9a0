"""Turns a classifier's probabilities into verdicts. Whatever is not plainly a probability fails closed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from services.safety.errors import UnusableAnswerError
from services.safety.guard import LabelledText
from services.safety.guard_file import SAFE_LABEL, UNSAFE_LABEL, LaterWindows
from services.safety.judgement import CategoryScore, HazardCategory

# float32 softmax and sigmoid may miss 0 and 1 by a rounding.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Reading:
    """What a classifier's answer for one text means.

    Attributes:
        unsafe_probability: from 0 to 1.
        scores: every hazard label, most probable first.
    """

    unsafe_probability: float
    scores: tuple[CategoryScore, ...]

    def held_to(self, bar: LaterWindows, threshold: float) -> "Reading":
        """Return what this says of a text when it was read in a window after the first, judged at a threshold."""
        # Policies compare categories with thresholds of their own: only the margin may lower these.
        lower = bar.model_copy(update={"weight": 1.0})
        scores = (
            replace(each, probability=None if each.probability is None else lower.weighed(each.probability, threshold))
            for each in self.scores
        )
        return Reading(bar.weighed(self.unsafe_probability, threshold), tuple(scores))

    def reached(self, threshold: float) -> tuple[CategoryScore, ...]:
        """Return the categories at or above a threshold."""
        return tuple(each for each in self.scores if each.probability is not None and each.probability >= threshold)


class LabelMeanings(Protocol):
    """What says what a classifier's labels mean."""

    @property
    def special_tokens(self) -> int:
        """Tokens that every text has; a text that has no other was not read."""

    def meaning(self, label: str) -> str | None:
        """Return ``safe``, ``unsafe`` or a category's code; None if the taxonomy has nothing for the label."""

    def category(self, code: str) -> HazardCategory:
        """Return a category by its code."""


class LabelReader:
    """Reads the answers of one classifier.

    The unsafe probability is the largest of: the outputs that mean ``unsafe``, those of all hazards (unmapped ones
    included), and, if there are labels that mean ``safe``, what these leave of 1. So no category ever exceeds it, but
    in a window after the first, of whose unsafe probability less may count (``Reading.held_to``).

    Args:
        labels: of the classifier, in the order of its probabilities.
        guard: what they mean.
    """

    def __init__(self, labels: Sequence[str], guard: LabelMeanings) -> None:
        meanings = [guard.meaning(label) for label in labels]
        self._count = len(labels)
        self._special_tokens = guard.special_tokens
        self._safe = [index for index, meaning in enumerate(meanings) if meaning == SAFE_LABEL]
        self._unsafe = [index for index, meaning in enumerate(meanings) if meaning == UNSAFE_LABEL]
        self._hazards = [
            (index, guard.category(meaning) if meaning else HazardCategory("", "", labels[index]))
            for index, meaning in enumerate(meanings)
            if meaning not in (SAFE_LABEL, UNSAFE_LABEL)
        ]

    def read(self, answer: LabelledText) -> Reading:
        """Read one answer.

        Raises:
            UnusableAnswerError: this is no list of probabilities of the classifier's labels, or nothing was read.
        """
        probabilities = [_probability(value) for value in answer.probabilities]
        if len(probabilities) != self._count:
            raise UnusableAnswerError("WRONG_PROBABILITY_COUNT")
        if answer.num_tokens <= self._special_tokens:
            raise UnusableAnswerError("NOTHING_READ")
        hazards = sorted(
            ((probabilities[index], category) for index, category in self._hazards), key=lambda each: -each[0]
        )
        candidates = [each for each, _ in hazards] + [probabilities[index] for index in self._unsafe]
        if self._safe:
            candidates.append(_clamped(1 - sum(probabilities[index] for index in self._safe)))
        return Reading(max(candidates), tuple(CategoryScore(category, each) for each, category in hazards))


def is_unmapped(category: HazardCategory) -> bool:
    """Return whether a category is a label that the guard's taxonomy does not have."""
    return not category.taxonomy


def _probability(value: float) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UnusableAnswerError("PROBABILITY_NOT_FINITE")
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise UnusableAnswerError("PROBABILITY_OUT_OF_RANGE")
    return _clamped(value)


def _clamped(value: float) -> float:
    return min(1.0, max(0.0, value))
