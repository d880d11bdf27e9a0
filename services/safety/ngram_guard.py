"""A guard on n-grams: it computes in this process, and says when it knows too little of a text."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from services.runtime.deadlines import child_timeout
from services.runtime.errors import DeadlineExceededError
from services.safety.classifier_guard import read_verdict
from services.safety.combining import worst
from services.safety.digests import json_digest
from services.safety.errors import UnusableAnswerError
from services.safety.guard import LabelledText
from services.safety.judgement import Aspect, GuardDescription, GuardReference, JudgedTurn, Verdict
from services.safety.ngram_file import NgramFile, read_ngrams
from services.safety.ngram_model import TEMPLATE, NgramAnswers, NgramSettings
from services.safety.reading import LabelReader
from services.safety.scripts import UNFAMILIAR_REASON
from services.safety.windows import Answer, read_whole

ENGINE: Final = "ngrams"
TIMEOUT_REASON: Final = "GUARD_TIMEOUT"
_PORTION_CHARACTERS: Final = 20_000
"""What is computed at once; in between, other calls have their turn."""


class CountingClassifier(Protocol):
    """An ``NgramModel``, or what takes its place."""

    @property
    def settings(self) -> NgramSettings:
        """Which n-grams it counts."""

    def read(self, texts: Sequence[str]) -> NgramAnswers:
        """Return what it says of texts; takes processor time."""


class NgramGuard:
    """Implements ``Guard`` on a classifier that counts n-grams.

    A text of which its training had too few words, in another language for instance, is an ERROR: the classifier would
    call safe whatever it does not know. A text that is longer than what it reads is judged in windows.

    Args:
        about: what the guard is.
        model: gives probabilities.
        reader: says what they mean.
        least_known_share: least share of a text's words that training must have had.
        timeout_seconds: longest time for the texts of one call.
    """

    def __init__(
        self,
        about: GuardDescription,
        model: CountingClassifier,
        reader: LabelReader,
        *,
        least_known_share: float,
        timeout_seconds: float,
    ) -> None:
        self._about = about
        self._model = model
        self._reader = reader
        self._least_known_share = least_known_share
        self._timeout_seconds = timeout_seconds
        # It holds the interpreter's lock while it computes: several threads would only be in each other's way.
        self._computing = asyncio.Lock()

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._about

    async def is_ready(self) -> bool:
        """Return true: it needs nothing."""
        return True

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Judge turns, away from the event loop, a portion at a time.

        Raises:
            DeadlineExceededError: the caller's time is used up.
        """
        read = await read_whole([turn.content for turn in turns], self._ask)
        return [
            worst([read_verdict(self._about, self._reader, turn, window.answer) for window in windows])
            for turn, windows in zip(turns, read, strict=True)
        ]

    async def _ask(self, texts: Sequence[str]) -> list[Answer]:
        budget = child_timeout(self._timeout_seconds)
        until = time.monotonic() + budget
        answers: list[Answer] = []
        for portion in _portions(texts, self._model.settings.max_characters):
            async with self._computing:
                if time.monotonic() < until:
                    answers += await asyncio.to_thread(self._read, portion)
                    continue
            if budget < self._timeout_seconds:
                raise DeadlineExceededError(f"{self._about.name} did not get to read all texts in the caller's time")
            answers += [UnusableAnswerError(TIMEOUT_REASON)] * (len(texts) - len(answers))
            break
        return answers

    def _read(self, texts: Sequence[str]) -> list[Answer]:
        said = self._model.read(texts)
        rows = zip(said.probabilities.tolist(), said.num_words, said.known_shares, said.truncated, strict=True)
        return [
            LabelledText(probabilities, num_words, truncated)
            # Nothing but signs and digits has no words to know: the reader finds that nothing was read.
            if known_share >= self._least_known_share or not num_words
            else UnusableAnswerError(UNFAMILIAR_REASON)
            for probabilities, num_words, known_share, truncated in rows
        ]


def ngram_guard(
    name: str, folder: Path, *, description: str = "", threshold: float | None = None, timeout_seconds: float
) -> NgramGuard:
    """Return the guard of a folder. Reads files: call it outside the event loop.

    Args:
        name: its resource name, ``guards/{guard}``.
        folder: that ``evalfleet distill-guard`` made.
        description: a sentence that takes the place of the folder's.
        threshold: takes the place of the folder's.
        timeout_seconds: longest time for the texts of one call.

    Raises:
        GuardFileError: the folder cannot be used.
        NgramsNotInstalledError: what it computes with is not there.
    """
    file, model = read_ngrams(folder)
    if threshold is not None:
        file = file.model_copy(update={"threshold": threshold})
    about = GuardDescription(
        reference=_reference(name, file),
        description=description or file.description,
        aspects=tuple(Aspect(each) for each in file.aspects),
        categories=tuple(file.category(code) for code in sorted(file.categories)),
        default_threshold=file.threshold,
        max_tokens=None,
    )
    return NgramGuard(
        about,
        model,
        LabelReader(file.labels, file),
        least_known_share=file.least_known_share,
        timeout_seconds=timeout_seconds,
    )


def _reference(name: str, file: NgramFile) -> GuardReference:
    meanings = [
        [label, file.categories[label].model_dump() if label in file.categories else {}] for label in file.labels
    ]
    return GuardReference(
        name=name,
        weights_digest=file.weights_sha256,
        template_digest=json_digest(
            {"template": TEMPLATE, "ngrams": file.ngrams.model_dump(mode="json"), "hashing": file.hashing_digest}
        ),
        calibration_digest=json_digest(
            {
                "threshold": file.threshold,
                "least_known_share": file.least_known_share,
                "taxonomy": [file.taxonomy, file.taxonomy_version],
                "labels": meanings,
            }
        ),
        engine=ENGINE,
        dtype="float64",
    )


def _portions(texts: Sequence[str], max_characters: int) -> list[list[str]]:
    """Divide texts, in their order, so that little is computed at once."""
    portions: list[list[str]] = []
    room = 0
    for text in texts:
        size = min(len(text), max_characters)
        if not portions or size > room:
            portions.append([])
            room = _PORTION_CHARACTERS
        portions[-1].append(text)
        room -= size
    return portions
