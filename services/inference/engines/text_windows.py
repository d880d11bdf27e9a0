"""Texts to windows of tokens: a text that is longer than a model reads is divided into windows of the full length."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np

_OVERLAP: Final = 4
"""Two neighbours share at least one part in so many of a window, so that most sentences are whole in one of them."""
_EMOJI: Final = re.compile(
    "[\u2600-\u27bf\U0001f300-\U0001f6ff\U0001f900-\U0001f9ff\U0001fa70-\U0001faff\ufe0f\u200d]+"
)
"""Pictures and what joins them, but no letters in a frame (circled, squared, of flags): those spell words."""
_STRETCH_TOKENS: Final = 32
"""Unknown tokens are counted among so many, about a sentence, so that a page does not cover one that is not read."""


@dataclass(frozen=True, slots=True)
class TextWindows:
    """One text as a model reads it.

    Attributes:
        windows: token ids of each, special ones included; at least one.
        unknown_shares: of each, the largest share of tokens in any stretch of 32 that stand for what the vocabulary
            lacks. Special tokens and unknown emoji count neither way; a window that holds nothing else was not read: 1.
        is_truncated: the text is longer than its windows.
    """

    windows: tuple[Sequence[int], ...]
    unknown_shares: tuple[float, ...]
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
        self._unknown_id: int | None = getattr(tokenizer, "unk_token_id", None)
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
        encoded = zip(texts, self._encoded(texts), strict=True)
        return [self._divided(*self._unglued(text, ids), max_windows) for text, ids in encoded]

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), verbose=False, split_special_tokens=True)["input_ids"]
        return ids

    def _unglued(self, text: str, ids: list[int]) -> tuple[str, list[int]]:
        """Return a text and its tokens; emoji stand apart where a word may be unknown for what is glued to it."""
        if self._unknown_id is None or self._unknown_id not in ids:
            return text, ids
        apart = _EMOJI.sub(_apart, text)
        if apart == text:
            return text, ids
        [ids] = self._encoded([apart])
        return apart, ids

    def _divided(self, text: str, ids: list[int], max_windows: int) -> TextWindows:
        first, last = self._before, len(ids) - self._after
        told = self._told(text, ids)
        if len(ids) <= self._max_tokens:
            return TextWindows((ids,), (unknown_share(told[first:last]),), is_truncated=False)
        spans, is_truncated = window_spans(last - first, self._room, self._window_room, max_windows)
        places = [slice(first + start, first + end) for start, end in spans]
        return TextWindows(
            tuple([*ids[:first], *ids[place], *ids[last:]] for place in places),
            tuple(unknown_share(told[place]) for place in places),
            is_truncated,
        )

    def _told(self, text: str, ids: Sequence[int]) -> list[bool | None]:
        """Return of each token whether the vocabulary lacks what it stands for; None if that is emoji alone."""
        if self._unknown_id is None or self._unknown_id not in ids:
            return [False] * len(ids)
        if not self._tokenizer.is_fast:
            # Such a tokenizer does not say where in the text a token stands.
            return [each == self._unknown_id for each in ids]
        places: list[tuple[int, int]] = self._tokenizer(
            text, verbose=False, split_special_tokens=True, return_offsets_mapping=True
        )["offset_mapping"]
        return [
            None
            if (is_unknown := each == self._unknown_id) and _EMOJI.fullmatch(text[start:end].strip())
            else is_unknown
            for each, (start, end) in zip(ids, places, strict=True)
        ]


def _apart(emoji: re.Match[str]) -> str:
    """Set emoji off at the beginning or end of a word; in its middle they stay, and with them the word unknown."""
    text, start, end = emoji.string, *emoji.span()
    is_inside = text[start - 1 : start].isalnum() and text[end : end + 1].isalnum()
    return emoji[0] if is_inside else f" {emoji[0]} "


def unknown_share(told: Sequence[bool | None]) -> float:
    """Return the largest share of unknown tokens in any stretch of 32; 1 where no token counts.

    Args:
        told: of each token whether it is unknown; None if it does not count.
    """
    counted = [each for each in told if each is not None]
    if not counted:
        return 1.0
    size = min(_STRETCH_TOKENS, len(counted))
    before = list(accumulate(counted, initial=0))
    return max(end - start for start, end in zip(before, before[size:], strict=False)) / size


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
