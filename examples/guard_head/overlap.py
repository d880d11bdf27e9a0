"""Finds training texts that are nearly a held-out text, so that no measure is flattered by them."""

import re
from collections.abc import Sequence

import torch

_WORD = re.compile(r"[a-z0-9']+")


def near_duplicates(
    texts: Sequence[str], others: Sequence[str], *, jaccard: float = 0.6
) -> list[tuple[int, int, float]]:
    """Return (index in texts, index in others, similarity) of pairs whose word sets have that Jaccard index or more."""
    words = [set(_WORD.findall(text.lower())) for text in (*texts, *others)]
    columns = {word: column for column, word in enumerate(sorted(set().union(*words)))}
    matrix = torch.zeros(len(words), len(columns))
    for row, each in enumerate(words):
        matrix[row, [columns[word] for word in each]] = 1
    left, right = matrix[: len(texts)], matrix[len(texts) :]
    right_sizes = right.sum(1)
    pairs = []
    for start in range(0, len(texts), 256):
        part = left[start : start + 256]
        common = part @ right.T
        similarity = common / (part.sum(1, keepdim=True) + right_sizes - common).clamp(min=1)
        for row, column in torch.nonzero(similarity >= jaccard).tolist():
            pairs.append((start + row, column, float(similarity[row, column])))
    return pairs
