"""The seam to a model that makes vectors of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One text as vectors.

    Attributes:
        windows: float32 [windows, dimensions], each of length 1; most texts are one window.
        num_tokens: uint32 [windows], tokens of each.
        is_truncated: the text is longer than its windows.
    """

    windows: NDArray[np.float32]
    num_tokens: NDArray[np.uint32]
    is_truncated: bool

    @property
    def vector(self) -> NDArray[np.float64]:
        """The text's one vector, of length 1: the mean of its windows' ones, weighted by their tokens."""
        mean = np.average(self.windows.astype(np.float64), axis=0, weights=np.maximum(self.num_tokens, 1))
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Texts as vectors.

    Attributes:
        texts: in the order asked.
        encoder_digest: names the exact encoder, SHA-256 in hex.
        engine_seconds: what they took of the engine's time.
    """

    texts: Sequence[EncodedText]
    encoder_digest: str
    engine_seconds: float


class TextEncoder(Protocol):
    """Makes vectors of texts."""

    async def encode(self, texts: Sequence[str], *, max_windows: int) -> EncodedTexts:
        """Encode texts, each in at most so many windows of what the encoder reads at once.

        Raises:
            EncoderNotFoundError: there is no encoder, or it cannot be loaded.
            EncoderUnavailableError: it takes no requests now.
            FleetError: there is no answer.
        """
        ...
