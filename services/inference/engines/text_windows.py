"""Texts to windows of tokens: a text that is longer than a model reads is divided into windows of the full length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_OVERLAP: Final = 8
"""Two neighbours share at least one part in so many of a window, so that nothing falls between them."""


@dataclass(frozen=True, slots=True)
class TextWindows:
    """One text as a model reads it.

    Attributes:
        windows: token ids of each, special ones included; at least one.
        is_truncated: the text is longer than its windows.
    """

    windows: tuple[Sequence[int], ...]
    is_truncated: bool


class WindowReader:
    """Divides texts.

    Args:
        tokenizer: of the model.
        max_tokens: longest text that is read at once, special tokens included.
        window_tokens: of a window of a longer one, special tokens included; None: as many. A model that takes the mean
            of what it reads finds a hazardous sentence in short windows that it misses in long ones.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, window_tokens: int | None = None) -> None:
        self._tokenizer = tokenizer
        marks = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        plain = [index for index, is_special in enumerate(marks) if not is_special] or [0]
        self._before, self._after = plain[0], len(marks) - 1 - plain[-1]
        self._max_tokens = max_tokens
        self._room = max(1, max_tokens - self._before - self._after)
        self._window_room = max(1, min(window_tokens or max_tokens, max_tokens) - self._before - self._after)

    def read(self, texts: Sequence[str], max_windows: int) -> list[TextWindows]:
        """Divide texts into at most ``max_windows`` windows each; what is left of longer ones is cut off."""
        encoded: list[list[int]] = self._tokenizer(list(texts), verbose=False)["input_ids"]
        return [self._divided(ids, max_windows) for ids in encoded]

    def _divided(self, ids: list[int], max_windows: int) -> TextWindows:
        if len(ids) <= self._max_tokens:
            return TextWindows((ids,), is_truncated=False)
        first, last = self._before, len(ids) - self._after
        # What is cut is read as far as the model goes.
        room = self._window_room if max_windows > 1 else self._room
        starts, is_truncated = window_starts(last - first, room, max_windows)
        return TextWindows(
            tuple([*ids[:first], *ids[first + start : first + start + room], *ids[last:]] for start in starts),
            is_truncated,
        )


def window_starts(length: int, room: int, most: int) -> tuple[list[int], bool]:
    """Return where the windows of a text begin, and whether they leave its end out.

    The first begins with the text and the last ends with it, all others are spread evenly between them, and each is as
    long as it can be: a window of a few words would be judged without what they belong to.

    Args:
        length: of the text, in tokens.
        room: tokens of a window.
        most: windows.
    """
    if length <= room:
        return [0], False
    step = room - room // _OVERLAP
    needed = 1 + math.ceil((length - room) / step)
    if needed > most:
        return [number * step for number in range(most)], True
    return [int(start) for start in np.linspace(0, length - room, needed)], False
