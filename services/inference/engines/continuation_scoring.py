"""Log-likelihoods of continuations; every context is computed once, whatever the number of its continuations.

The definition is lm-evaluation-harness's for causal models: the sum over a continuation's tokens of the log-softmax
of the logits at the position before, in float32, with the oldest tokens dropped where the window is too short.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from transformers.cache_utils import DynamicCache

from services.inference.engines.context_group import ContextGroup, ContinuationResult, never_cancelled
from services.inference.engines.forward import ForwardPass
from services.inference.engines.prompts import EncodedScoring
from services.inference.failures import InferenceFailure

_LOGIT_BYTES: Final = 1 << 28
"""Bound on the float32 logits of one pass over continuations, 256 MiB."""


def group_by_context(
    encoded: EncodedScoring,
    context_window: int,
    *,
    may_truncate: bool,
    was_cancelled: Callable[[], bool] = never_cancelled,
) -> list[ContextGroup]:
    """Split a request into groups that share a context; there is more than one only where the window is too short.

    The model reads context and continuation but for the last token, so both together may be one longer than the
    window. A whole text that is longer, if it may be cut, is scored in pieces, each in a group of its own; its score is
    the sum of theirs.

    Raises:
        InferenceFailure: PROMPT_TOO_LONG if tokens would have to be dropped and may not, CONTINUATION_TOO_LONG if a
            continuation alone exceeds the window and may not be scored in pieces.
    """
    rolled: list[ContextGroup] = []
    by_dropped: dict[int, list[tuple[int, Sequence[int]]]] = {}
    for index, continuation in enumerate(encoded.continuations):
        if len(continuation) > context_window and encoded.follows_nothing and may_truncate:
            pieces = rolling_pieces((*encoded.context, *continuation), len(encoded.context), context_window)
            rolled += [ContextGroup(context, [(index, piece)], was_cancelled) for context, piece in pieces]
            continue
        if len(continuation) > context_window:
            raise InferenceFailure(
                f"continuation {index} has {len(continuation)} tokens, the model's context only {context_window}",
                reason="CONTINUATION_TOO_LONG",
                code="FAILED_PRECONDITION",
                metadata={"continuation_tokens": str(len(continuation)), "context_tokens": str(context_window)},
            )
        dropped = max(0, len(encoded.context) + len(continuation) - context_window - 1)
        by_dropped.setdefault(dropped, []).append((index, continuation))
    longest = len(encoded.context) + max(map(len, encoded.continuations))
    if max(by_dropped, default=0) and not may_truncate:
        raise InferenceFailure(
            f"context and continuation have {longest} tokens, the model's context only {context_window}; shorten the "
            "prompt or allow truncation",
            reason="PROMPT_TOO_LONG",
            code="FAILED_PRECONDITION",
            metadata={"prompt_tokens": str(longest), "context_tokens": str(context_window)},
        )
    return rolled + [
        ContextGroup(encoded.context[dropped:], members, was_cancelled)
        for dropped, members in sorted(by_dropped.items())
    ]


def rolling_pieces(tokens: Sequence[int], first: int, window: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Yield a text piece by piece, each with the tokens before it that the model reads with it; none twice.

    As lm-evaluation-harness's rolling windows: the first piece is a whole window behind the prefix token, the others
    follow one token, and the last as many as fill its window.

    Args:
        tokens: of the text, with what is before it.
        first: index of the first that is scored, at least 1.
        window: most tokens that the model reads.
    """
    for start in range(first, len(tokens), window):
        end = min(start + window, len(tokens))
        yield tokens[max(0, end - window - 1) : start], tokens[start:end]


def score_groups(forward: ForwardPass, groups: Sequence[ContextGroup], kv_tokens: int) -> None:
    """Score the continuations of several contexts together; fills in ``results``.

    Args:
        forward: the model.
        groups: contexts of similar length.
        kv_tokens: bound on the cached tokens, padding included, of one pass over continuations.
    """
    logits, cache = forward.prefill([group.context for group in groups])
    normalisers = logits.logsumexp(dim=-1)
    greedy = logits.argmax(dim=-1).tolist()
    work: list[_Continuation] = []
    for row, group in enumerate(groups):
        firsts = [continuation[0] for _, continuation in group.members]
        likelihoods = (logits[row, firsts] - normalisers[row]).tolist()
        for (index, continuation), likelihood in zip(group.members, likelihoods, strict=True):
            is_greedy = greedy[row] == continuation[0]
            group.results[index] = ContinuationResult(likelihood, is_greedy)
            if len(continuation) > 1:
                work.append(_Continuation(group, row, index, continuation))
    for chunk in _chunks(work, cache.get_seq_length(), kv_tokens, logits.shape[1]):
        _score_rest(forward, cache, chunk)


@dataclass(frozen=True, slots=True)
class _Continuation:
    group: ContextGroup
    row: int
    index: int
    tokens: Sequence[int]


def _chunks(
    work: list[_Continuation], context_tokens: int, kv_tokens: int, vocabulary_size: int
) -> Iterator[list[_Continuation]]:
    """Cut the work, longest first, so that neither logits nor copied contexts outgrow their bounds."""
    ordered = sorted(work, key=lambda each: len(each.tokens), reverse=True)
    while ordered:
        longest = len(ordered[0].tokens) - 1
        by_logits = _LOGIT_BYTES // (4 * vocabulary_size * longest)
        by_cache = kv_tokens // (context_tokens + longest)
        count = max(1, min(by_logits, by_cache))
        yield ordered[:count]
        ordered = ordered[count:]


def _score_rest(forward: ForwardPass, cache: DynamicCache, chunk: Sequence[_Continuation]) -> None:
    """Add the log-likelihoods of all tokens behind the first."""
    logits = forward.continue_from(
        cache,
        [each.row for each in chunk],
        [len(each.group.context) for each in chunk],
        [each.tokens[:-1] for each in chunk],
    )
    longest = logits.shape[1]
    targets = torch.tensor(
        [list(each.tokens[1:]) + [0] * (longest - len(each.tokens) + 1) for each in chunk], device=logits.device
    )
    counts = torch.tensor([[len(each.tokens) - 1] for each in chunk], device=logits.device)
    is_real = torch.arange(longest, device=logits.device) < counts
    likelihoods = logits.gather(2, targets.unsqueeze(2)).squeeze(2) - logits.logsumexp(dim=-1)
    sums = torch.where(is_real, likelihoods, 0.0).sum(dim=-1).tolist()
    all_greedy = ((logits.argmax(dim=-1) == targets) | ~is_real).all(dim=-1).tolist()
    for each, total, is_greedy in zip(chunk, sums, all_greedy, strict=True):
        first = each.group.results[each.index]
        each.group.results[each.index] = ContinuationResult(
            first.log_likelihood + total, first.is_greedy and bool(is_greedy)
        )
