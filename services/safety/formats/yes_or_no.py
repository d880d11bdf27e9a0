"""What families share that are asked one question a category and answer with yes or no."""

from typing import Final

from services.safety.formats.guard_format import Level, Statement

_MEANINGS: Final = {"yes": Level.UNSAFE, "no": Level.SAFE}


def statement(word: str, before: str, *, yes: str, no: str) -> Statement:
    """Return what a yes or no says: yes means that the policy asked about is violated.

    Args:
        word: what was answered, in any case.
        before: the text in front of it.
        yes: how this family writes yes.
        no: how this family writes no.
    """
    return Statement(_MEANINGS[word.lower()], before, ((Level.SAFE, no), (Level.UNSAFE, yes)))
