"""Splits the labelled texts so that no paraphrase of a held-out text was trained on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from examples.guard_head.corpus import OWN_SOURCE, Example
from examples.guard_head.overlap import near_duplicates

_FOLDS: Final = 10
_TEST_FOLDS: Final = frozenset({0, 1})
_VALIDATION_FOLDS: Final = frozenset({2})
_OWN_TEST_FOLDS: Final = frozenset({0})


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled texts by what they are for.

    Attributes:
        training: the guard is tuned on these.
        validation: of the public sets; the threshold is chosen on these.
        test: of the public sets; nothing is chosen on these.
        own_test: of our own sentences, whole groups of paraphrases; the hazards are measured on these.
    """

    training: list[Example]
    validation: list[Example]
    test: list[Example]
    own_test: list[Example]


def split(public: Sequence[Example], own: Sequence[Example]) -> Split:
    """Hold a fifth of the public texts out for the test and a tenth for the threshold; of our own, a tenth.

    Args:
        public: texts of the public sets.
        own: further training texts; those that are nearly a held-out text are left out.
    """
    folds = folds_of(public, _FOLDS)
    chosen = list(zip(public, folds, strict=True))
    test = [each for each, fold in chosen if fold in _TEST_FOLDS]
    validation = [each for each, fold in chosen if fold in _VALIDATION_FOLDS]
    held_out = [each.text for each in (*test, *validation)]
    near = {row for _, row, _ in near_duplicates(held_out, [each.text for each in own])}
    training = [each for each, fold in chosen if fold not in _TEST_FOLDS | _VALIDATION_FOLDS]
    kept = [each for row, each in enumerate(own) if row not in near]
    own_test = [each for each in kept if each.source == OWN_SOURCE and _fold(each.group, _FOLDS) in _OWN_TEST_FOLDS]
    measured = {each.group for each in own_test}
    training += [each for each in kept if each.source != OWN_SOURCE or each.group not in measured]
    return Split(training, validation, test, own_test)


def folds_of(examples: Sequence[Example], count: int) -> list[int]:
    """Return the fold of each text, from 0 to ``count`` - 1.

    Texts of one group, and texts whose word sets have a Jaccard index of 0.6 or more, fall into one fold; which one
    depends on the texts only.
    """
    parent = list(range(len(examples)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    for row, example in enumerate(examples):
        parent[root(row)] = root(first.setdefault(example.group, row))
    texts = [example.text for example in examples]
    for left, right, _ in near_duplicates(texts, texts):
        parent[root(left)] = root(right)
    smallest: dict[int, str] = {}
    for row, example in enumerate(examples):
        at = root(row)
        smallest[at] = min(smallest.get(at, example.text), example.text)
    return [_fold(smallest[root(row)], count) for row in range(len(examples))]


def _fold(text: str, count: int) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % count
