"""Which scripts a classifier reads: of a text in others it says something, but nothing that could be relied on."""

from functools import cached_property
from typing import Final

import regex
from pydantic import BaseModel, ConfigDict, Field, model_validator

UNFAMILIAR_REASON: Final = "TEXT_UNFAMILIAR"

_BLOCK_CHARACTERS: Final = 1000
"""A stretch of a text that is looked at by itself, so that a page of English does not cover a paragraph of Chinese."""


class ReadScripts(BaseModel):
    """The scripts that a classifier's training had.

    A text is unfamiliar if in any stretch of a thousand characters too many of the letters belong to other scripts, or
    to none: the letters of mathematics spell words, too. A name or a quotation in another script makes none so. It
    says nothing of a foreign language in a script that is read, nor of letters that Unicode counts to that script or
    takes for symbols (fullwidth, circled, Braille): which of those the classifier reads, its tokenizer tells.

    Attributes:
        read: names of scripts as Unicode has them: Latin, Cyrillic, Han.
        most_others: largest share of other letters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: tuple[str, ...] = Field(min_length=1)
    most_others: float = Field(0.25, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_names(self) -> "ReadScripts":
        for name in self.read:
            if not _is_script(name):
                raise ValueError(f"read: Unicode has no script {name!r}")
        return self

    @cached_property
    def _other_letters(self) -> "regex.Pattern[str]":
        scripts = "".join(rf"\p{{Script={name}}}" for name in self.read)
        return regex.compile(rf"[\p{{L}}--[{scripts}]]", regex.V1)

    def is_unfamiliar(self, text: str) -> bool:
        """Return whether a stretch of a text has too many letters of other scripts. Takes processor time."""
        if text.isascii() and "Latin" in self.read:
            return False
        last = max(0, len(text) - _BLOCK_CHARACTERS)
        starts = (*range(0, last, _BLOCK_CHARACTERS), last)
        return any(self._has_too_many(text[start : start + _BLOCK_CHARACTERS]) for start in starts)

    def _has_too_many(self, block: str) -> bool:
        others = len(self._other_letters.findall(block))
        return others > 0 and others > self.most_others * sum(map(str.isalpha, block))


def _is_script(name: str) -> bool:
    try:
        regex.compile(rf"\p{{Script={name}}}", regex.V1)
    except regex.error:
        return False
    return name.replace("_", "").isalpha()
