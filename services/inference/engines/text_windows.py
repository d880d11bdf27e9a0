"""Texts to windows of tokens: a text that is longer than a model reads is divided into windows of the full length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_OVERLAP: Final = 4
"""Two neighbours share at least one part in so many of a window, so that most sentences are whole in one of them."""


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
        window_tokens: of the windows of a longer one after the first, special tokens included; None: as many. A model
            that takes the mean of what it reads finds in short windows a hazardous sentence that long ones hide.
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
        """Divide texts into at most ``max_windows`` windows each; what is left of longer ones is cut off.

        ``[SEP]`` in a text is five characters of it, and no token that divides what the model reads.
        """
        encoded: list[list[int]] = self._tokenizer(list(texts), verbose=False, split_special_tokens=True)["input_ids"]
        return [self._divided(ids, max_windows) for ids in encoded]

    def _divided(self, ids: list[int], max_windows: int) -> TextWindows:
        if len(ids) <= self._max_tokens:
            return TextWindows((ids,), is_truncated=False)
        first, last = self._before, len(ids) - self._after
        spans, is_truncated = window_spans(last - first, self._room, self._window_room, max_windows)
        return TextWindows(
            tuple([*ids[:first], *ids[first + start : first + end], *ids[last:]] for start, end in spans), is_truncated
        )


def window_spans(length: int, first: int, later: int, most: int) -> tuple[list[tuple[int, int]], bool]:
    """Return where the windows of a text begin and end, and whether they leave its end out.

    The first is as long as may be: what whoever cuts long texts reads of them. The others divide what is behind it, or,
    where they are shorter, the whole text: they find at its beginning, too, what the first one's length hides.

    Args:
        length: of the text, in tokens.
        first: tokens of the first window.
        later: tokens of the others, at most as many.
        most: windows.
    """
    if length <= first or most == 1:
        return [(0, min(length, first))], length > first
    begin = 0 if later < first else min(first - later // _OVERLAP, length - later)
    starts, is_truncated = window_starts(length - begin, later, most - 1)
    return [(0, first), *((begin + start, begin + start + later) for start in starts)], is_truncated


def window_starts(length: int, room: int, most: int) -> tuple[list[int], bool]:
    """Return where windows of one length begin, and whether they leave its end out.

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
