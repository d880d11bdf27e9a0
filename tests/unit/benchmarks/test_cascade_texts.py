"""The cascade benchmark's texts: mixed as stated, none twice; the cheap guard's lessons are made of its own texts."""

from collections import Counter

import pytest

from benchmarks.cascade.lessons import with_pieces
from benchmarks.cascade.texts import mixed

POOLS = {
    "hazardous": [f"h{number}" for number in range(10)],
    "lookalike": [*(f"h{number}" for number in range(5)), *(f"l{number}" for number in range(40))],
    "prompt": [f"p{number}" for number in range(500)],
}
SHARES = {"hazardous": 0.1, "lookalike": 0.2, "prompt": 0.7}


def test_a_mix_has_the_stated_shares_and_each_text_once() -> None:
    texts = mixed(POOLS, SHARES, seed=1)
    assert len(set(texts)) == len(texts) == 100
    # What two kinds have is the first one's.
    assert Counter(text[0] for text in texts) == {"h": 10, "l": 20, "p": 70}


def test_a_mix_depends_on_the_seed_only() -> None:
    assert mixed(POOLS, SHARES, seed=1) == mixed(POOLS, SHARES, seed=1) != mixed(POOLS, SHARES, seed=2)


@pytest.mark.parametrize("count", [0, 50])
def test_pieces_are_new_and_made_of_the_texts(count: int) -> None:
    texts = ["one two three four five", "six seven eight nine", " ", "ten"]
    lessons = with_pieces(texts, count, seed=3)
    assert lessons[: len(texts)] == texts
    assert len(set(lessons)) == len(lessons) == len(texts) + count
    assert {word for text in lessons for word in text.split()} <= {word for text in texts for word in text.split()}
