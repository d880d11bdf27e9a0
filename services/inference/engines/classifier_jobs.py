"""The requests that wait for a classifier, and which of their windows the next forward pass computes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.inference import contract
from services.inference.engines.batching import LENGTH_STEP, PASS_TOKENS, alike_batches
from services.inference.engines.seams import Responder, Tensors
from services.inference.engines.text_windows import TextWindows, WindowReader

_logger = logging.getLogger(__name__)

_CHARACTERS_A_TOKEN: Final = 4
_PORTION_CHARACTERS: Final = 8192
"""Texts of so many characters are divided into tokens before anything else is computed: some milliseconds."""


@dataclass(slots=True, eq=False)
class _Window:
    """A window that waits: which of its text, and what it holds."""

    text: int
    number: int
    ids: Sequence[int]


class ClassifierJob:
    """One request: its texts, the windows that wait, and what came of the others.

    Args:
        texts: to classify; not empty.
        max_windows: most windows of each.
        responder: the way back.
        arrived: when, in seconds of any clock.

    Attributes:
        asked_at: when it was last asked whether its caller is there.
        engine_seconds: its share of the engine's time so far.
        failure: why a text of it cannot be divided into tokens; None if none failed.
    """

    def __init__(self, texts: Sequence[str], max_windows: int, responder: Responder, arrived: float) -> None:
        self.responder = responder
        self.arrived = self.asked_at = arrived
        self.engine_seconds = 0.0
        self.failure: BaseException | None = None
        self._texts = texts
        self._max_windows = max_windows
        # Taken from the end: texts of about one length are computed together, short ones first.
        self._unread = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
        self._unread_tokens = sum(map(self._likely_tokens, texts))
        self._waiting: list[_Window] = []
        self._waiting_tokens = 0
        self._read: dict[int, TextWindows] = {}
        self._answers: dict[tuple[int, int], NDArray[np.float32]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether everything is computed."""
        return not self._unread and not self._waiting

    @property
    def num_texts(self) -> int:
        """Texts of the request."""
        return len(self._texts)

    @property
    def num_tokens(self) -> int:
        """Tokens of what is divided into windows so far."""
        return sum(len(ids) for text in self._read.values() for ids in text.windows)

    def urgency(self, now: float) -> float:
        """Return how long it has waited for each token that is left to compute; the most urgent is next.

        This is highest response ratio next (Brinch Hansen 1971) with what is left in place of the whole: of two that
        came together the shorter goes first, and a long one that waits becomes as urgent as any short one that comes.
        """
        return (now - self.arrived) / (PASS_TOKENS + self._unread_tokens + self._waiting_tokens)

    @property
    def is_read(self) -> bool:
        """Whether windows wait, so that no text needs to be divided to go on."""
        return bool(self._waiting)

    def likely_tokens(self, longest: int) -> int:
        """Return about how many tokens the next window of a text has that is not divided yet, at most ``longest``."""
        return min(longest, self._likely_tokens(self._texts[self._unread[-1]])) if self._unread else 0

    def read_portion(self, reader: WindowReader) -> None:
        """Divide the next texts into windows, unless some wait already; what goes wrong is its own ``failure``."""
        if self._waiting:
            return
        portion: list[int] = []
        room = _PORTION_CHARACTERS
        while self._unread and (not portion or len(self._texts[self._unread[-1]]) <= room):
            portion.append(self._unread.pop())
            room -= len(self._texts[portion[-1]])
        try:
            divided = reader.read([self._texts[each] for each in portion], self._max_windows)
        except BaseException as error:  # a panic of the tokenizer's native code is no Exception
            _logger.exception("classifier_text_unreadable")
            self.failure = error
            return
        for text, read in zip(portion, divided, strict=True):
            self._read[text] = read
            self._unread_tokens -= self._likely_tokens(self._texts[text])
            self._waiting += [_Window(text, number, ids) for number, ids in enumerate(read.windows)]
        self._waiting.sort(key=lambda window: len(window.ids))
        self._waiting_tokens = sum(len(window.ids) for window in self._waiting)

    def windows(self) -> Iterator[_Window]:
        """Yield the windows that wait, shortest first."""
        return iter(self._waiting)

    def take(self, window: _Window, answer: NDArray[np.float32]) -> None:
        """Take what the model gave for a window, which then waits no longer."""
        self._waiting.remove(window)
        self._waiting_tokens -= len(window.ids)
        self._answers[window.text, window.number] = answer

    def tensors(self, name: str = contract.PROBABILITIES) -> Tensors:
        """Return the output tensors, once it is complete; ``name`` is what the rows are called."""
        texts = [self._read[index] for index in range(len(self._texts))]
        rows = [self._answers[index, number] for index, text in enumerate(texts) for number in range(len(text.windows))]
        return {
            name: np.stack(rows).astype(np.float32),
            contract.NUM_TOKENS: np.array([len(ids) for text in texts for ids in text.windows], dtype=np.uint32),
            contract.NUM_WINDOWS: np.array([len(text.windows) for text in texts], dtype=np.uint32),
            contract.UNKNOWN_SHARE: np.array(
                [each for text in texts for each in text.unknown_shares], dtype=np.float32
            ),
            contract.TRUNCATED: np.array([text.is_truncated for text in texts], dtype=np.bool_),
            contract.ENGINE_SECONDS: np.array([self.engine_seconds], dtype=np.float64),
        }

    def _likely_tokens(self, text: str) -> int:
        return len(text) // _CHARACTERS_A_TOKEN + 1


@dataclass(frozen=True, slots=True)
class Pass:
    """What is computed together.

    Attributes:
        windows: with the request of each.
        padded_tokens: what each is padded to.
    """

    windows: Sequence[tuple[ClassifierJob, _Window]]
    padded_tokens: int

    def ids(self, pad_id: int, *, pads_left: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return token ids and their mask, int64 [windows, padded_tokens]."""
        ids = np.full((len(self.windows), self.padded_tokens), pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, (_, window) in enumerate(self.windows):
            at = slice(self.padded_tokens - len(window.ids), None) if pads_left else slice(len(window.ids))
            ids[row, at] = window.ids
            mask[row, at] = 1
        return ids, mask


def next_pass(jobs: Sequence[ClassifierJob], reader: WindowReader, now: float, max_tokens: int, longest: int) -> Pass:
    """Return what to compute next: the most urgent request's windows, and what may go with them at no great cost.

    A request whose text cannot be read has a ``failure`` afterwards; where all have one, there are no windows.

    Args:
        jobs: none complete, at least one.
        reader: divides texts that were not looked at yet.
        now: on the clock of the arrivals.
        max_tokens: of one pass, padding included; the first window goes whatever its length.
        longest: tokens that the model reads.
    """
    chosen: list[tuple[ClassifierJob, _Window]] = []
    room = max_tokens
    may_read = True
    for job in sorted(jobs, key=lambda each: each.urgency(now), reverse=True):
        is_read, before = job.is_read, len(chosen)
        if chosen and not is_read and not (may_read and job.likely_tokens(longest) <= room):
            continue
        job.read_portion(reader)
        for window in job.windows():
            tokens = max(len(window.ids), LENGTH_STEP)
            if chosen and tokens > room:
                break
            chosen.append((job, window))
            room -= tokens
        if room < LENGTH_STEP:
            break
        # What was divided and does not fit ends the reading: of many requests it would take longer than the pass.
        may_read = may_read and (is_read or len(chosen) > before)
    if not chosen:
        return Pass([], 0)
    batches = alike_batches([len(window.ids) for _, window in chosen], max_tokens, longest)
    [first] = (each for each in batches if 0 in each.rows)
    return Pass([chosen[row] for row in first.rows], first.padded_tokens)
