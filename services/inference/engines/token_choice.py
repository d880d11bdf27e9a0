"""Chooses the next token of every row of a batch, each by its own sampling parameters and random numbers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from services.inference.sampling import SamplingParameters

_CANDIDATES: Final = 1024
"""How many of the most probable tokens are sorted at first."""


@dataclass(slots=True)
class TokenChooser:
    """What one row needs to choose tokens: its parameters, its own random numbers, and which tokens end it.

    Attributes:
        sampling: checked parameters.
        generator: drawn from once a token, so a seed gives the same answer in any batch.
        ending_token_ids: tokens that end the row; they may not be chosen before ``sampling.min_tokens``.
    """

    sampling: SamplingParameters
    generator: random.Random
    ending_token_ids: frozenset[int]

    @classmethod
    def of(cls, sampling: SamplingParameters, ending_token_ids: frozenset[int]) -> "TokenChooser":
        """Make a row's chooser; without a seed its random numbers come from the system."""
        # Seeded by text, because Python seeds -1 and 1 alike.
        return cls(sampling, random.Random(None if sampling.seed is None else str(sampling.seed)), ending_token_ids)


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """The next token of every row.

    Attributes:
        ids: token ids; meaningless in rows that are not finite.
        is_finite: whether the model gave that row numbers to choose from.
        log_probabilities: of the chosen tokens before temperature and filters; empty if not asked for.
    """

    ids: list[int]
    is_finite: list[bool]
    log_probabilities: list[float]


def choose_tokens(
    logits: torch.Tensor, choosers: Sequence[TokenChooser], num_generated: Sequence[int], *, want_probabilities: bool
) -> ChosenTokens:
    """Choose the next token of every row.

    Args:
        logits: float32 [rows, vocabulary].
        choosers: one a row.
        num_generated: tokens that the row has generated so far.
        want_probabilities: also return log-probabilities.
    """
    is_finite = torch.isfinite(logits.max(dim=-1).values).tolist()
    allowed = _without_early_ends(logits, choosers, num_generated)
    ids = allowed.argmax(dim=-1)
    sampled = [row for row, chooser in enumerate(choosers) if chooser.sampling.temperature > 0 and is_finite[row]]
    # Filtered rows are drawn apart: sorting them changes which token a random number means.
    for is_filtered in (False, True):
        members = [row for row in sampled if _needs_filter(choosers[row].sampling) is is_filtered]
        if members:
            rows = torch.tensor(members, device=logits.device)
            ids[rows] = _sample(allowed[rows], [choosers[row] for row in members], is_filtered=is_filtered)
    log_probabilities: list[float] = []
    if want_probabilities:
        chosen = logits.gather(1, ids.unsqueeze(1)).squeeze(1)
        log_probabilities = (chosen - logits.logsumexp(dim=-1)).tolist()
    return ChosenTokens(ids.tolist(), is_finite, log_probabilities)


def _without_early_ends(
    logits: torch.Tensor, choosers: Sequence[TokenChooser], num_generated: Sequence[int]
) -> torch.Tensor:
    early = [
        (row, sorted(chooser.ending_token_ids))
        for row, chooser in enumerate(choosers)
        if num_generated[row] < chooser.sampling.min_tokens and chooser.ending_token_ids
    ]
    if not early:
        return logits
    allowed = logits.clone()
    for row, token_ids in early:
        allowed[row, token_ids] = -torch.inf
    return allowed


def _sample(logits: torch.Tensor, choosers: Sequence[TokenChooser], *, is_filtered: bool) -> torch.Tensor:
    """Draw one token a row by inverting its cumulative distribution at one uniform number.

    The order of the tokens is fixed (by id, or by probability where a filter needs it), so a row's draw depends on
    its own logits and its own random number only.
    """
    # The dtype is named because torch's default is another one while a checkpoint is being loaded beside this engine.
    temperatures = torch.tensor(
        [each.sampling.temperature for each in choosers], dtype=torch.float32, device=logits.device
    )
    # Float64: a float32 cumulative sum over a large vocabulary is off by more than small probabilities.
    probabilities = (logits.double() / temperatures.double().unsqueeze(1)).softmax(dim=-1)
    uniforms = torch.tensor([[each.generator.random()] for each in choosers], dtype=torch.float64, device=logits.device)
    if not is_filtered:
        return _inverted(probabilities, uniforms)
    samplings = [each.sampling for each in choosers]
    tokens, is_enough = _sample_filtered(probabilities, samplings, uniforms, _CANDIDATES)
    wide = [row for row, enough in enumerate(is_enough) if not enough]
    if wide:
        rows = torch.tensor(wide, device=logits.device)
        everything = probabilities.shape[1]
        tokens[rows], _ = _sample_filtered(
            probabilities[rows], [samplings[row] for row in wide], uniforms[rows], everything
        )
    return tokens


def _needs_filter(sampling: SamplingParameters) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _sample_filtered(
    probabilities: torch.Tensor, samplings: Sequence[SamplingParameters], uniforms: torch.Tensor, width: int
) -> tuple[torch.Tensor, list[bool]]:
    """Draw from what the filters leave of the ``width`` most probable tokens.

    Returns:
        One token a row, and whether what the filters leave lies within ``width`` tokens: sorting a whole vocabulary
        takes longer than the model itself, and is hardly ever needed.
    """
    top, ids = probabilities.topk(min(width, probabilities.shape[1]), dim=-1)
    # Equal probabilities in the order of their ids, whatever topk makes of them.
    ids, by_id = ids.sort(dim=-1)
    top, by_probability = top.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    kept, is_enough = _filtered(top, samplings, probabilities.shape[1])
    return ids.gather(1, by_probability).gather(1, _inverted(kept, uniforms).unsqueeze(1)).squeeze(1), is_enough


def _filtered(
    top: torch.Tensor, samplings: Sequence[SamplingParameters], vocabulary: int
) -> tuple[torch.Tensor, list[bool]]:
    """Set to zero what top-k, then min-p, then top-p remove from the most probable tokens, sorted.

    Returns:
        The rest, and for each row whether tokens beyond ``top`` would all be removed, too.
    """
    device, width = top.device, top.shape[1]
    top_k = torch.tensor([[s.top_k if s.top_k > 0 else vocabulary] for s in samplings], device=device)
    top_p = torch.tensor([[s.top_p] for s in samplings], dtype=torch.float64, device=device)
    min_p = torch.tensor([[s.min_p] for s in samplings], dtype=torch.float64, device=device)
    kept = top * (torch.arange(width, device=device) < top_k) * (top >= min_p * top[:, :1])
    mass = kept.sum(dim=-1, keepdim=True)
    # Where only top-p filters, the tokens beyond count, too, and everything sums to one.
    is_open = (top_k >= vocabulary) & (min_p == 0)
    before = (kept.cumsum(dim=-1) - kept) / torch.where(is_open, 1.0, mass)
    # A token stays if the tokens before it have not yet reached top_p; the first always stays.
    final = kept * ((before < top_p) | (top_p >= 1))
    if width == vocabulary:
        return final, [True] * len(samplings)
    # What is as probable as the last candidate may have equals beyond it, and of these the lowest ids come first.
    is_sure = top > top[:, -1:]
    is_enough = torch.where(
        is_open,
        (top_p < 1) & ((kept * is_sure).sum(dim=-1, keepdim=True) >= top_p),
        (top_k <= is_sure.sum(dim=-1, keepdim=True)) | (top[:, -1:] < min_p * top[:, :1]),
    )
    return final, is_enough.squeeze(1).tolist()


def _inverted(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the index at which each row's cumulative sum passes its uniform share of the total."""
    cumulative = probabilities.cumsum(dim=-1)
    chosen = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    # Rounding may put the target at the very end, behind the last token that can be chosen.
    last = probabilities.shape[1] - 1 - (probabilities > 0).flip(-1).int().argmax(dim=-1, keepdim=True)
    return torch.minimum(chosen, last).squeeze(1)
