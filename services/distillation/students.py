"""The seam of a student: what learns from a teacher's labels and becomes a guard."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from evalfleet.results import Guard
from numpy.typing import NDArray

from services.distillation.ngrams import fit_ngrams
from services.safety.ngram_file import Teacher as NgramTeacher
from services.safety.ngram_file import save_ngrams
from services.safety.ngram_model import USUAL_SETTINGS, NgramModel, NgramSettings

THRESHOLD = 0.5
"""On a student's probability: targets are moved so that the teacher's own threshold lies here."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a student says of texts.

    Attributes:
        probabilities: float64 [texts], that the teacher would call them unsafe.
        judged: bool [texts], whether it would judge them as a guard; the others would be ERROR.
    """

    probabilities: NDArray[np.float64]
    judged: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a student comes from, for the files that describe it.

    Attributes:
        name: that it has as a guard.
        teacher: the guard that it learnt from.
        aspects: what the texts were judged as: prompt, response, or both.
        training: facts and figures for people, as JSON can hold them.
    """

    name: str
    teacher: Guard
    aspects: tuple[str, ...]
    training: Mapping[str, Any] = field(default_factory=dict)

    def teacher_reference(self) -> dict[str, str]:
        """Return which exact guard the teacher was."""
        return asdict(self.teacher.reference) | {"name": self.teacher.name}


class Student(Protocol):
    """A small classifier."""

    def fit(self, texts: Sequence[str], targets: NDArray[np.float64]) -> None:
        """Learn anew from texts and what the teacher says of them, from 0 to 1; takes processor time.

        Raises:
            InvalidArgumentError: TARGETS_ONE_SIDED, there is nothing to tell apart.
        """

    def says(self, texts: Sequence[str]) -> Said:
        """Return what it says of texts, after a fit."""

    def save(self, folder: Path, origin: Origin) -> None:
        """Write it to a folder that is not there yet, ready to be a guard.

        Raises:
            AlreadyExistsError: the folder is there.
        """

    def entry(self, name: str, folder: Path) -> str:
        """Return what the guards file has to say of it, as YAML in one line."""


class NgramStudent:
    """Implements ``Student`` as a linear classifier on n-grams.

    Args:
        settings: which n-grams.
        least_known_share: below this share of known words, the guard will not judge.
    """

    def __init__(self, settings: NgramSettings = USUAL_SETTINGS, *, least_known_share: float = 0.5) -> None:
        self._settings = settings
        self._least_known_share = least_known_share
        self._model: NgramModel | None = None

    @property
    def model(self) -> NgramModel:
        """The classifier of the last fit."""
        if self._model is None:
            raise RuntimeError("a student says nothing before it has learnt something")
        return self._model

    def fit(self, texts: Sequence[str], targets: NDArray[np.float64]) -> None:
        """Learn anew."""
        self._model = fit_ngrams(texts, targets, settings=self._settings)

    def says(self, texts: Sequence[str]) -> Said:
        """Return what it says of texts."""
        answers = self.model.read(texts)
        judged = (answers.known_shares >= self._least_known_share) & (np.array(answers.num_words) > 0)
        return Said(answers.probabilities.max(axis=1, initial=0.0), judged)

    def save(self, folder: Path, origin: Origin) -> None:
        """Write the folder of a guard of the kind ``ngrams``."""
        save_ngrams(
            folder,
            self.model,
            f"A linear classifier on n-grams that learnt from {origin.teacher.name}: the first stage of a cascade.",
            aspects=origin.aspects,
            threshold=THRESHOLD,
            least_known_share=self._least_known_share,
            teacher=NgramTeacher(**origin.teacher_reference()),
            training=dict(origin.training),
        )

    def entry(self, name: str, folder: Path) -> str:
        """Return its entry of the guards file."""
        return f"{{name: {name}, kind: ngrams, folder: {folder}}}"
