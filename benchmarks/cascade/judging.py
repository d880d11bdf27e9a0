"""The two guards: the cheap one is distilled from the large one, and both judge the texts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from evalfleet.calibration.fitting import JudgedRow
from numpy.typing import NDArray

from examples.guard_head.scoring import MeasuredGuard, Scores
from services.distillation.ngrams import fit_ngrams
from services.safety.guard_models import EMBEDDED_FOLDER

# The n-gram guard answers ERROR, so that a cascade hands on, where it knows fewer of a text's words.
_FEWEST_KNOWN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Judgements:
    """What both guards said, once a text.

    Attributes:
        cheap: the cheap guard's unsafe probabilities; NaN where it says nothing.
        large: the large guard's decisions.
        tokens: of each text.
        cost_ratio: CPU seconds of the cheap guard over those of the large one, on all texts.
    """

    cheap: Scores
    large: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    cost_ratio: float

    def rows(self) -> list[JudgedRow]:
        """The texts as a calibration reads them."""
        return [
            JudgedRow((None if np.isnan(p) else float(p),), bool(each))
            for p, each in zip(self.cheap, self.large, strict=True)
        ]


class Judges:
    """Both guards.

    Args:
        encoder: folder of the large guard's encoder; None looks for it.
        lessons: texts that the large guard labels for the cheap one.
    """

    def __init__(self, encoder: Path | None, lessons: Sequence[str]) -> None:
        self._large = MeasuredGuard(EMBEDDED_FOLDER, encoder)
        probabilities = self._large.unsafe_probabilities(lessons)
        self._cheap = fit_ngrams(lessons, centred(probabilities, self._large.threshold))

    def judge(self, texts: Sequence[str]) -> Judgements:
        """Have both guards judge texts."""
        started = time.process_time()
        answers = self._cheap.read(texts)
        cheap_seconds = time.process_time() - started
        started = time.process_time()
        judged = self._large.judge(texts)
        large_seconds = time.process_time() - started
        return Judgements(
            cheap=np.where(answers.known_shares < _FEWEST_KNOWN, np.nan, answers.probabilities.max(axis=1)),
            large=judged.unsafe_probabilities >= self._large.threshold,
            tokens=judged.num_tokens,
            cost_ratio=cheap_seconds / large_seconds,
        )


def centred(probabilities: Scores, threshold: float) -> Scores:
    """Return targets whose 0.5 is the teacher's threshold, piecewise linear on both sides of it."""
    below, above = probabilities / (2 * threshold), 1 - (1 - probabilities) / (2 * (1 - threshold))
    return np.where(probabilities < threshold, below, above)
