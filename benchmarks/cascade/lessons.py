"""What the cheap guard learns on: texts, and pieces of them."""

import random
from collections.abc import Iterator, Sequence
from typing import Final

_LONGEST_PIECE_WORDS: Final = 25


def with_pieces(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Return texts and new ones made of them, so that more is learnt of what the large guard makes of single phrases.

    A piece is a run of a text's words, the beginning of one with the end of another, or one with words left out.

    Args:
        texts: to begin with.
        count: of the pieces.
        seed: of their choice.
    """
    chance = random.Random(seed)
    made: dict[str, None] = dict.fromkeys(texts)
    pieces = _pieces([words for text in texts if (words := text.split())], chance)
    while len(made) < len(set(texts)) + count:
        made.setdefault(next(pieces))
    return list(made)


def _pieces(texts: Sequence[Sequence[str]], chance: random.Random) -> Iterator[str]:
    longest = _LONGEST_PIECE_WORDS
    while True:
        words, others = chance.choice(texts), chance.choice(texts)
        length = chance.randint(1, min(longest, len(words)))
        start = chance.randint(0, len(words) - length)
        yield " ".join(words[start : start + length])
        beginning, end = chance.randint(1, len(words)), chance.randint(0, len(others) - 1)
        yield " ".join([*words[:beginning][-longest:], *others[end:][:longest]])
        yield " ".join(word for word in words[: 2 * longest] if chance.random() < 0.7) or words[0]
