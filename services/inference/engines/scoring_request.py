"""One scoring request: what has to be computed for it, and what its caller is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.inference import contract
from services.inference.engines.context_group import ContextGroup, ContinuationResult, has_numbers
from services.inference.engines.generation_request import nonfinite_logits
from services.inference.engines.seams import Responder


@dataclass(slots=True, eq=False)
class ScoringRequest:
    """All continuations of one context.

    Attributes:
        responder: the way back.
        was_cancelled: whether the caller gave up.
        groups: contexts as the model sees them; more than one only where the window is too short. The pieces of a long
            text each have one.
        num_context_tokens: tokens of the context before truncation.
        num_truncated_tokens: most tokens before a scored one that the model did not see with it.
        continuation_lengths: tokens of every continuation, in order.
    """

    responder: Responder
    was_cancelled: Callable[[], bool]
    groups: Sequence[ContextGroup]
    num_context_tokens: int
    num_truncated_tokens: int
    continuation_lengths: Sequence[int]

    def answer(self) -> None:
        """Send the scores that the groups hold now."""
        if not all(has_numbers(group) for group in self.groups):
            self.responder.fail(nonfinite_logits())
            return
        pieces: dict[int, list[ContinuationResult]] = {}
        for group in self.groups:
            for index, result in group.results.items():
                pieces.setdefault(index, []).append(result)
        ordered = [_whole(pieces[index]) for index in range(len(self.continuation_lengths))]
        num_cached = sum(group.num_cached_tokens for group in self.groups)
        self.responder.finish(
            {
                contract.CONTINUATION_LOG_LIKELIHOODS: np.array([each.log_likelihood for each in ordered]),
                contract.CONTINUATION_IS_GREEDY: np.array([each.is_greedy for each in ordered]),
                contract.CONTINUATION_NUM_TOKENS: np.array(self.continuation_lengths, dtype=np.uint32),
                contract.NUM_INPUT_TOKENS: np.array([self.num_context_tokens], dtype=np.uint32),
                contract.NUM_TRUNCATED_TOKENS: np.array([self.num_truncated_tokens], dtype=np.uint32),
                contract.NUM_CACHED_TOKENS: np.array([num_cached], dtype=np.uint32),
                contract.ENGINE_SECONDS: np.array([sum(group.engine_seconds for group in self.groups)]),
            }
        )


def _whole(pieces: Sequence[ContinuationResult]) -> ContinuationResult:
    return ContinuationResult(sum(each.log_likelihood for each in pieces), all(each.is_greedy for each in pieces))
