"""Reads the scores of continuations off the logits of a pass."""

from collections.abc import Sequence

import torch

from services.inference.engines.context_group import ContextGroup, ContinuationResult
from services.inference.engines.packed.planning import Piece


def read_scores(leaves: Sequence[Piece], logits: torch.Tensor) -> None:
    """Fill in the results of all continuations of some leaves.

    The logits are in the order of the leaves, float32 [positions, vocabulary]: first behind the stem, then behind
    every token of each branch in turn.
    """
    rows: list[int] = []
    targets: list[int] = []
    spans: list[tuple[ContextGroup, int, int]] = []
    stem_row = 0
    for leaf in leaves:
        next_row = stem_row + 1
        for index, ids in leaf.members:
            spans.append((leaf.owners[0].group, index, len(ids)))
            rows += [stem_row, *range(next_row, next_row + len(ids) - 1)]
            targets += ids
            next_row += len(ids) - 1
        stem_row = next_row
    row_index = torch.tensor(rows, device=logits.device)
    target_index = torch.tensor(targets, device=logits.device)
    normalisers, greedy = logits.logsumexp(dim=-1), logits.argmax(dim=-1)
    likelihoods = (logits[row_index, target_index] - normalisers[row_index]).tolist()
    is_greedy = (greedy[row_index] == target_index).tolist()
    at = 0
    for group, index, count in spans:
        group.results[index] = ContinuationResult(sum(likelihoods[at : at + count]), all(is_greedy[at : at + count]))
        at += count
