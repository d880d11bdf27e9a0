"""The guard without a server: the engine that serves it inside Triton, its weights, and its reading of the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.inference.contract import VariantName
from services.inference.engines.seams import EngineMetrics
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.safety.guard import LabelledText
from services.safety.guard_models import embedded_guard
from services.safety.judgement import CategoryScore
from services.safety.reading import LabelReader, Reading

_BATCH: Final = 256

Scores = NDArray[np.float64]


class NoMetrics:
    """Nobody reads the engine's metrics here."""

    def publish(self, values: Mapping[str, float]) -> None:
        """Drop them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the guard says of texts.

    Attributes:
        unsafe_probabilities: float64 [texts].
        num_tokens: int64 [texts], that it read.
        hazards: of each text, every hazard with its probability, most probable first.
    """

    unsafe_probabilities: Scores
    num_tokens: NDArray[np.int64]
    hazards: list[tuple[CategoryScore, ...]]


class MeasuredGuard:
    """A guard of the embedded kind.

    Args:
        folder: its head, adapter and guard.yaml.
        encoder: folder of the encoder; None looks for it.
        variant: what computes it.

    Attributes:
        threshold: the guard's own.
        max_tokens: longest text that it reads at once.
        weights_digest: SHA-256 (hex) of all that the engine loads.
    """

    def __init__(self, folder: Path, encoder: Path | None, variant: VariantName = "torch") -> None:
        model = embedded_guard(encoder, "float32", folder=folder, variant=variant)
        metrics: EngineMetrics = NoMetrics()
        self._engine = SequenceClassifierEngine.load(model.arguments, metrics)
        self._reader = LabelReader(model.labels, model.file)
        self._max_windows = model.file.max_windows
        self._later_windows = model.file.later_windows
        threshold = model.about.default_threshold
        assert threshold is not None
        self.threshold = threshold
        assert model.about.max_tokens is not None
        self.max_tokens = model.about.max_tokens
        self.weights_digest = model.about.reference.weights_digest

    def judge(self, texts: Sequence[str]) -> Judged:
        """Judge texts in the order given, 256 at a time as Triton would."""
        readings: list[Reading] = []
        tokens: list[int] = []
        for start in range(0, len(texts), _BATCH):
            answer = self._engine.classify(texts[start : start + _BATCH])
            rows = zip(answer.probabilities.tolist(), answer.num_tokens, answer.truncated, strict=True)
            readings += [self._reader.read(LabelledText(row, int(count), bool(cut))) for row, count, cut in rows]
            tokens += answer.num_tokens.tolist()
        return Judged(
            np.array([each.unsafe_probability for each in readings]),
            np.array(tokens, dtype=np.int64),
            [each.scores for each in readings],
        )

    def served(self, texts: Sequence[str]) -> Scores:
        """Return what the safety service says of texts, long ones in windows, at the guard's own threshold; [texts]."""
        found: list[float] = []
        for start in range(0, len(texts), _BATCH):
            answer = self._engine.classify(texts[start : start + _BATCH], max_windows=self._max_windows)
            rows = iter(zip(answer.probabilities.tolist(), answer.num_tokens.tolist(), strict=True))
            for count in answer.num_windows.tolist():
                first, *later = [self._reader.read(LabelledText(*next(rows), False)) for _ in range(count)]
                held = [each.held_to(self._later_windows, self.threshold) for each in later]
                found.append(max(each.unsafe_probability for each in (first, *held)))
        return np.array(found)

    def windows(self, texts: Sequence[str], most: int) -> list[Scores]:
        """Return of each text what is unsafe in each of its windows, at most so many, the first one first."""
        found: list[Scores] = []
        for start in range(0, len(texts), _BATCH):
            answer = self._engine.classify(texts[start : start + _BATCH], max_windows=most)
            rows = zip(answer.probabilities.tolist(), answer.num_tokens.tolist(), strict=True)
            read = np.array([self._reader.read(LabelledText(*row, False)).unsafe_probability for row in rows])
            found += np.split(read, np.cumsum(answer.num_windows)[:-1])
        return found

    def unsafe_probabilities(self, texts: Sequence[str]) -> Scores:
        """Return float64 [texts]."""
        return self.judge(texts).unsafe_probabilities
