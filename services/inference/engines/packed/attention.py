"""Attention of packed sequences: partial results over different keys, merged by their log-sum-exp.

Every token attends to blocks of cached keys (many tokens to the same block: one dense product), and to new tokens of
its own sequence. Each part is a softmax over its own keys together with the logarithm of its normaliser; two parts
a and b of the same query combine to ``(e^{l_a} o_a + e^{l_b} o_b) / (e^{l_a} + e^{l_b})`` (Milakov and Gimelshein
2018, «Online normalizer calculation for softmax»; used for shared prefixes by Juravsky et al. 2024, «Hydragen»).
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface

IMPLEMENTATION: Final = "evalfleet_packed"
PASS_ARGUMENT: Final = "evalfleet_pass"
_QUERIES_AT_ONCE: Final = 512


class AttentionPass(Protocol):
    """What one forward pass attends to."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """Return [heads, tokens, head size] for query [heads, tokens, head size] and new keys and values."""


def register() -> None:
    """Make the implementation known to transformers; repeating it changes nothing."""
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    packed: AttentionPass = options[PASS_ARGUMENT]
    output = packed.attend(module.layer_idx, query[0], key[0], value[0], scaling)
    return output.transpose(0, 1).unsqueeze(0), None


def _no_mask(*arguments: Any, **options: Any) -> None:
    """Leave masking to the pass, which knows which tokens belong together."""


def attend_dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend, and return the normaliser as well.

    Args:
        query: [batch, heads, queries, head size].
        key: [batch, key-value heads, keys, head size]; heads is a multiple of key-value heads.
        value: like ``key``.
        scale: of the scores; None is 1/sqrt(head size).
        mask: added to the scores, float, broadcastable to [batch, 1, queries, keys]; no query may be masked entirely.
        is_causal: query i sees keys up to i; queries and keys are as many.

    Returns:
        Output [batch, heads, queries, head size], and log-sum-exp of the scores, float32 [batch, heads, queries].
    """
    if query.device.type == "cpu":
        attend: Callable[..., Any] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, normaliser = attend(query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale)
        return output, normaliser
    return _attend_by_products(query, key, value, scale=scale, mask=mask, is_causal=is_causal)


def _attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None,
    mask: torch.Tensor | None,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the same with plain products, where no kernel gives the normaliser for any mask.

    In float32 whatever the inputs are, as the kernels do, and a part of the queries at a time, so that memory grows
    with the keys alone.
    """
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1).float().transpose(-1, -2)
    value = value.repeat_interleave(groups, dim=1).float()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    outputs, normalisers = [], []
    for start in range(0, query.shape[2], _QUERIES_AT_ONCE):
        part = query[:, :, start : start + _QUERIES_AT_ONCE]
        scores = (part.float() * scale) @ key
        end = start + part.shape[2]
        if mask is not None:
            scores += mask if mask.shape[-2] == 1 else mask[..., start:end, :]
        if is_causal:
            future = torch.ones(end - start, key.shape[-1], dtype=torch.bool, device=query.device).triu(start + 1)
            scores.masked_fill_(future, float("-inf"))
        normaliser = scores.logsumexp(dim=-1)
        outputs.append(((scores - normaliser.unsqueeze(-1)).exp_() @ value).to(query.dtype))
        normalisers.append(normaliser)
    return torch.cat(outputs, dim=2), torch.cat(normalisers, dim=2)


def merge(
    output: torch.Tensor, normaliser: torch.Tensor, other: torch.Tensor, other_normaliser: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine two partial results over disjoint keys; shapes as those of ``attend_dense``."""
    weight = torch.sigmoid(other_normaliser - normaliser).unsqueeze(-1).to(output.dtype)
    return torch.lerp(output, other, weight), torch.logaddexp(normaliser, other_normaliser)
