"""Keeps what users wrote from being read as a part of a guard's prompt."""

import re
from collections.abc import Iterable
from typing import Final

# What any tokenizer of today's families may take for a special token, whatever a checkpoint's files list.
_TOKEN_SHAPES: Final = (
    r"<\|[^<>|\s]{1,64}\|>",
    r"<\uff5c[^<>\s]{1,64}\uff5c>",
    r"</?s>",
    r"</?(?:think|score|guardian|bos|eos|pad|unk|start_of_turn|end_of_turn)>",
    r"<(?:BEGIN|END) [A-Z ]{1,40}>",
    r"\[/?INST\]",
    r"<</?SYS>>",
    r"<start_of_image>",
)
_LINE_STARTS: Final = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class Neutraliser:
    """Breaks up special tokens, and labels of turns at the beginning of lines, with a space.

    A guard still reads what was written, but neither its tokenizer nor the model sees a marker of its own prompt there.

    Args:
        tokens: further texts that the checkpoint's tokenizer takes for special tokens.
        labels: words that introduce a turn or a section at the beginning of a line when a colon follows.
    """

    def __init__(self, tokens: Iterable[str] = (), labels: Iterable[str] = ()) -> None:
        shapes = re.compile("|".join(_TOKEN_SHAPES), re.IGNORECASE)
        others = {each for each in tokens if len(each) > 1 and not each.isspace() and not shapes.fullmatch(each)}
        literal = [re.escape(each) for each in sorted(others, key=lambda each: (-len(each), each))]
        # Tokenizers have hundreds of tokens with few first characters, which decide most places of a text at once.
        first = "".join(sorted({re.escape(each[0]) for each in ("<", "[", *others)}))
        self._tokens = re.compile(rf"(?=[{first}])(?:{'|'.join([*_TOKEN_SHAPES, *literal])})", re.IGNORECASE)
        names = "|".join(re.escape(each) for each in sorted(labels, key=lambda each: -len(each)))
        line_start = rf"(?:\A|(?<=[{_LINE_STARTS}]))"
        self._labels = re.compile(rf"{line_start}([^\S{_LINE_STARTS}]*(?:{names})):", re.IGNORECASE) if names else None

    def clean(self, text: str) -> str:
        """Return the text without a marker in it."""
        # A space never completes a marker, but two markers may overlap.
        while (cleaned := self._tokens.sub(_split, text)) != text:
            text = cleaned
        return text if self._labels is None else self._labels.sub(r"\1 :", text)

    def has_marker(self, text: str) -> bool:
        """Return whether ``clean`` would change the text."""
        return self.clean(text) != text


def _split(match: re.Match[str]) -> str:
    return f"{match[0][0]} {match[0][1:]}"
