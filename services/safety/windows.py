"""Long texts, read whole: a text that a classifier cut is read in overlapping windows, until no window is cut."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.safety.errors import UnusableAnswerError
from services.safety.guard import LabelledText

MAX_WINDOWS: Final = 64
"""Most windows of one text; what is longer is judged as far as they reach, and marked as cut."""
OVERLAP_CHARACTERS: Final = 100
"""What two neighbours share at least, so that nothing hazardous falls between them."""
_CHARACTERS_PER_TOKEN: Final = 3
SHORTEST_CHARACTERS: Final = 3 * OVERLAP_CHARACTERS

Answer = LabelledText | UnusableAnswerError


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text with its answer."""

    content: str
    answer: Answer

    def parts(self, most: int) -> list[str]:
        """Return the shorter windows that are to take this one's place; none if it was read whole, or is short."""
        if isinstance(self.answer, UnusableAnswerError) or not self.answer.truncated:
            return []
        length = len(self.content)
        likely = _CHARACTERS_PER_TOKEN * self.answer.num_tokens
        size = max(SHORTEST_CHARACTERS, min(likely, length // 2 + OVERLAP_CHARACTERS))
        if size >= length or most < 2:
            return []
        return [part for part in parts_of(self.content, size, most) if part.strip()]


async def read_whole(
    texts: Sequence[str], ask: Callable[[Sequence[str]], Awaitable[Sequence[Answer]]]
) -> list[list[Window]]:
    """Return the windows of each text, in their order.

    Args:
        texts: to read.
        ask: returns one answer a text.
    """
    answers = await ask(texts)
    windows = [[Window(text, answer)] for text, answer in zip(texts, answers, strict=True)]
    while True:
        # None where a window stays; else what takes its place.
        chosen = [_divided(of_text) for of_text in windows]
        asked = [part for of_text in chosen for parts in of_text for part in parts or ()]
        if not asked:
            return windows
        read = map(Window, asked, await ask(asked))
        windows = [
            [
                each
                for window, parts in zip(of_text, divided, strict=True)
                for each in ([window] if parts is None else [next(read) for _ in parts])
            ]
            for of_text, divided in zip(windows, chosen, strict=True)
        ]


def parts_of(text: str, size: int, most: int) -> Iterator[str]:
    """Yield overlapping windows of ``size`` characters, cut at white space where there is some near their end.

    Args:
        text: to divide.
        size: characters of a window, more than three times the overlap.
        most: windows; the last one is as long as it must.
    """
    start = 0
    for _ in range(most - 1):
        if len(text) - start <= size:
            break
        end = start + size
        space = text.rfind(" ", end - OVERLAP_CHARACTERS, end)
        end = space if space > start + OVERLAP_CHARACTERS else end
        yield text[start:end]
        start = end - OVERLAP_CHARACTERS
    yield text[start:]


def _divided(windows: Sequence[Window]) -> list[list[str] | None]:
    """Return for each window of a text what takes its place, the earliest first, as far as the bound allows."""
    count = len(windows)
    divided: list[list[str] | None] = []
    for window in windows:
        parts = window.parts(MAX_WINDOWS - count + 1)
        divided.append(parts or None)
        count += max(0, len(parts) - 1)
    return divided
