"""One scoring request: what has to be computed for it, and what its caller is told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.inference import contract
from services.inference.engines.continuation_scoring import ContextGroup, has_numbers
from services.inference.engines.generation_request import nonfinite_logits
from services.inference.engines.seams import Responder


@dataclass(slots=True)
class ScoringRequest:
    """All continuations of one context.

    Attributes:
        responder: the way back.
        groups: contexts as the model sees them; more than one only where the window is too short.
        num_context_tokens: tokens of the context before truncation.
        continuation_lengths: tokens of every continuation, in order.
    """

    responder: Responder
    groups: Sequence[ContextGroup]
    num_context_tokens: int
    continuation_lengths: Sequence[int]

    @property
    def num_tokens(self) -> int:
        """Tokens that have to be computed."""
        return sum(len(group.context) for group in self.groups) + sum(self.continuation_lengths)

    def context_size(self) -> int:
        """Tokens of its longest context."""
        return max(len(group.context) for group in self.groups)

    def answer(self, engine_seconds: float) -> None:
        """Send the scores that the groups hold now."""
        if not all(has_numbers(group) for group in self.groups):
            self.responder.fail(nonfinite_logits())
            return
        results = {index: result for group in self.groups for index, result in group.results.items()}
        ordered = [results[index] for index in range(len(self.continuation_lengths))]
        shortest = min(len(group.context) for group in self.groups)
        self.responder.finish(
            {
                contract.CONTINUATION_LOG_LIKELIHOODS: np.array([each.log_likelihood for each in ordered]),
                contract.CONTINUATION_IS_GREEDY: np.array([each.is_greedy for each in ordered]),
                contract.CONTINUATION_NUM_TOKENS: np.array(self.continuation_lengths, dtype=np.uint32),
                contract.NUM_INPUT_TOKENS: np.array([self.num_context_tokens], dtype=np.uint32),
                contract.NUM_TRUNCATED_TOKENS: np.array([self.num_context_tokens - shortest], dtype=np.uint32),
                contract.ENGINE_SECONDS: np.array([engine_seconds]),
            }
        )
