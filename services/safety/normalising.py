"""Unifies how a text is written, for guards that look at its words and not at its tokens."""

import unicodedata


def normalised(text: str) -> str:
    """Return a text with compatible forms unified, lower case, no invisible characters, single spaces."""
    if text.isascii():
        # Nothing to unify and nothing invisible: the same, in a fraction of the time.
        return " ".join(text.lower().split())
    unified = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(each for each in unified if unicodedata.category(each) != "Cf").split())
