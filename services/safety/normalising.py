"""Unifies how a text is written, for guards that look at its words and not at its tokens."""

import unicodedata
from typing import Final

import regex

# Control characters, some of which Python takes for white space, but for those that stand for a break in a text; and
# what Unicode says is not shown where it is not supported: joiners, variation selectors, fillers, tags.
_INVISIBLE: Final = regex.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\p{Cf}\p{Default_Ignorable_Code_Point}]", regex.V1
)


def normalised(text: str) -> str:
    """Return a text with compatible forms unified, lower case, no invisible characters, single spaces."""
    if text.isascii():
        # Nothing to unify, and few characters that are invisible: the same, in a fraction of the time.
        return " ".join(_INVISIBLE.sub("", text.lower()).split())
    # What invisible characters kept apart, a letter and its accent for instance, is unified once they are gone.
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    folded = unicodedata.normalize("NFKC", visible).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())
