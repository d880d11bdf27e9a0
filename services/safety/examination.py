"""What came of asking a guard model one question, and what that means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.runtime.usage import Usage
from services.safety.errors import UnusableAnswerError
from services.safety.formats.guard_format import CONTRADICTORY, Level, Question, Statement
from services.safety.judgement import NO_USAGE

_IMPOSSIBLE: Final = -math.inf
_NEAR_TIE: Final = 0.6
"""What a verdict that was written has at least of the most probable one's probability. The answer is greedy, so both
should be the same; half precision and other batches move log-likelihoods by some tenths."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What a model answered to one question; the same for every threshold, so it can be kept.

    Attributes:
        text: its answer.
        is_complete: whether the model ended it by itself.
        log_likelihoods: of the verdict words that its statement names, in their order; empty where they were not asked.
        cached: whether it was known before.
        usage: what it cost; of a known one what it saved.
    """

    text: str
    is_complete: bool
    log_likelihoods: tuple[float, ...] = ()
    cached: bool = False
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Finding:
    """What one answer says.

    Attributes:
        statement: read from the text.
        probabilities: of the levels that the verdict words stand for; they add up to 1.
    """

    statement: Statement
    probabilities: dict[Level, float]

    @property
    def unsafe_probability(self) -> float:
        """Probability of the hazardous level alone."""
        return self.probabilities.get(Level.UNSAFE, 0.0)

    def level(self, threshold: float | None) -> Level:
        """Return the level at a threshold; without one, the worse of what is said and what is most probable.

        At a threshold, the middle level holds what is not safe enough: the probability of anything but safe reaches it.

        Raises:
            UnusableAnswerError: the threshold asks for a milder level than that, and what is said is not what is most
                probable: one of both is wrong.
        """
        likeliest = max(self.probabilities, key=lambda level: (self.probabilities[level], level))
        worse = max(self.statement.level, likeliest)
        if threshold is None:
            return worse
        level = self._reached(threshold)
        said = self.probabilities.get(self.statement.level, 0.0)
        if level < worse and said < _NEAR_TIE * self.probabilities[likeliest]:
            raise UnusableAnswerError(CONTRADICTORY)
        return level

    def _reached(self, threshold: float) -> Level:
        if self.unsafe_probability >= threshold:
            return Level.UNSAFE
        is_doubtful = self.unsafe_probability + self.probabilities.get(Level.CONTROVERSIAL, 0.0) >= threshold
        return Level.CONTROVERSIAL if is_doubtful and Level.CONTROVERSIAL in self.probabilities else Level.SAFE


def continuations(question: Question, statement: Statement) -> list[str]:
    """Return what could have stood behind the prompt up to the verdict word, by verdict word.

    Both are encoded together. White space on both sides of the seam would become one token, which the model has not
    seen there: that of the prompt is enough.
    """
    is_spaced = isinstance(question.prompt, str) and question.prompt[-1:].isspace()
    before = statement.before.lstrip() if is_spaced else statement.before
    return [before + word for _, word in statement.words]


def find(statement: Statement, log_likelihoods: Sequence[float]) -> Finding:
    """Turn the log-likelihoods of the verdict words into probabilities: a softmax over those words alone.

    Raises:
        UnusableAnswerError: they are not as many as the words, or no numbers.
    """
    if len(log_likelihoods) != len(statement.words):
        raise UnusableAnswerError("WRONG_PROBABILITY_COUNT")
    # Minus infinity is a word that cannot be said; if all are, there is nothing to compare.
    if any(math.isnan(each) or each == math.inf for each in log_likelihoods) or max(log_likelihoods) == _IMPOSSIBLE:
        raise UnusableAnswerError("PROBABILITY_NOT_FINITE")
    largest = max(log_likelihoods)
    weights = [math.exp(each - largest) for each in log_likelihoods]
    total = math.fsum(weights)
    return Finding(
        statement, {level: weight / total for (level, _), weight in zip(statement.words, weights, strict=True)}
    )
