"""A fake of the sentence encoder: a text's vector counts its words, so that texts are alike that share words."""

from collections.abc import Sequence

import numpy as np

from services.runtime.errors import FleetError
from services.scoring.encoding.text_encoder import EncodedText, EncodedTexts

WORDS_A_WINDOW = 8
_DIMENSIONS = 64


class FakeTextEncoder:
    """Implements ``TextEncoder``; windows are of eight words.

    Attributes:
        asked: the texts of every request.
        failure: raised instead of an answer.
        digest: of the encoder.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.failure: FleetError | None = None
        self.digest = "e1"

    async def encode(self, texts: Sequence[str], *, max_windows: int) -> EncodedTexts:
        self.asked.append(tuple(texts))
        if self.failure is not None:
            raise self.failure
        return EncodedTexts([_encoded(text, max_windows) for text in texts], self.digest, 0.25)


def _encoded(text: str, max_windows: int) -> EncodedText:
    words = text.lower().split() or [""]
    windows = [words[start : start + WORDS_A_WINDOW] for start in range(0, len(words), WORDS_A_WINDOW)]
    kept = windows[:max_windows]
    vectors = np.stack([_vector(each) for each in kept])
    return EncodedText(vectors, np.array([len(each) for each in kept], np.uint32), len(kept) < len(windows))


def _vector(words: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    counts = np.zeros(_DIMENSIONS, np.float32)
    for word in words:
        counts[sum(word.encode()) % _DIMENSIONS] += 1
    return counts / np.float32(np.linalg.norm(counts))
