"""One answer while it is generated: when it ends, and what its caller is told."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.inference import contract
from services.inference.contract import FinishReason
from services.inference.engines.answer_text import AnswerText
from services.inference.engines.seams import Responder, Tensors, texts
from services.inference.engines.token_choice import TokenChooser
from services.inference.failures import InferenceFailure

PIECE_SECONDS: Final = 0.05
"""Shortest time between two pieces of a streamed answer. Every piece costs a message in each process on its way to the
caller; where tokens come faster than messages are carried, the news that a caller has left queues behind them."""


@dataclass(slots=True)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        responder: the way back.
        was_cancelled: whether the caller gave up.
        prompt: token ids, at least one, fewer than the context window.
        max_tokens: most tokens to generate, limited by the context window.
        chooser: parameters and random numbers.
        answer: the text as it grows.
        is_streamed: send pieces as they come.
        wanted_outputs: names of the optional outputs that the caller asked for.
        input_text: put in front of the answer; empty unless the caller wants its input back.
        num_truncated_tokens: prompt tokens that were dropped before.
        num_generated: tokens so far.
        engine_seconds: this request's share of the engine's time so far.
        num_cached_tokens: tokens of the prompt that did not have to be computed for it.
        has_ended: its caller has the outcome.
        own_tokens: tokens that it needs room for while it runs, at most; None until somebody counts them.
    """

    responder: Responder
    was_cancelled: Callable[[], bool]
    prompt: Sequence[int]
    max_tokens: int
    chooser: TokenChooser
    answer: AnswerText
    is_streamed: bool
    wanted_outputs: frozenset[str]
    input_text: str = ""
    num_truncated_tokens: int = 0
    num_generated: int = 0
    engine_seconds: float = 0.0
    num_cached_tokens: int = 0
    has_ended: bool = False
    own_tokens: int | None = None
    _num_reported: int = 0
    _cumulative_logprob: float = 0.0
    _sent_at: float = -math.inf

    @property
    def longest_tokens(self) -> int:
        """Tokens of the prompt and the longest possible answer."""
        return len(self.prompt) + self.max_tokens

    @property
    def wants_logprob(self) -> bool:
        """Whether the cumulative log-probability was asked for."""
        return contract.CUMULATIVE_LOGPROB in self.wanted_outputs

    def accept(self, token_id: int, log_probability: float) -> bool:
        """Take the next token and tell the caller what is certain; return whether generation goes on."""
        self.num_generated += 1
        self._cumulative_logprob += log_probability
        reason = self._take(token_id)
        if reason is not None:
            self._finish(reason)
        elif self.is_streamed:
            self._send_piece()
        return reason is None

    def fail(self, failure: InferenceFailure) -> None:
        """End with an error, unless it has ended."""
        if not self.has_ended:
            self.has_ended = True
            self.responder.fail(failure)

    def _send_piece(self) -> None:
        """Send what is certain of the answer, unless a piece was sent just now: then it goes with a later one."""
        now = time.monotonic()
        if now - self._sent_at >= PIECE_SECONDS and (piece := self.answer.release(is_final=False)):
            self._sent_at = now
            self.responder.send(self._outputs(piece, None))

    def _take(self, token_id: int) -> FinishReason | None:
        if token_id in self.chooser.ending_token_ids:
            return "stop"
        if self.answer.push(token_id, may_stop=self.num_generated >= self.chooser.sampling.min_tokens):
            return "stop"
        return "length" if self.num_generated >= self.max_tokens else None

    def _finish(self, reason: FinishReason) -> None:
        self.answer.finish()
        outputs = self._outputs(self.input_text + self.answer.release(is_final=True), reason)
        self.has_ended = True
        self.responder.finish(outputs)

    def _outputs(self, text: str, reason: FinishReason | None) -> Tensors:
        outputs = {contract.TEXT_OUTPUT: texts(text)}
        if contract.FINISH_REASON in self.wanted_outputs:
            # vLLM's backend writes "None" while the answer goes on.
            outputs[contract.FINISH_REASON] = texts(str(reason))
        if self.wants_logprob:
            outputs[contract.CUMULATIVE_LOGPROB] = np.array([self._cumulative_logprob], dtype=np.float32)
        if contract.NUM_INPUT_TOKENS in self.wanted_outputs:
            outputs[contract.NUM_INPUT_TOKENS] = np.array([len(self.prompt)], dtype=np.uint32)
        if contract.NUM_OUTPUT_TOKENS in self.wanted_outputs:
            outputs[contract.NUM_OUTPUT_TOKENS] = np.array([self.num_generated - self._num_reported], dtype=np.uint32)
            self._num_reported = self.num_generated
        # With every piece: whoever leaves before the last one owes what was computed until then.
        outputs[contract.ENGINE_SECONDS] = np.array([self.engine_seconds], dtype=np.float64)
        outputs[contract.NUM_CACHED_TOKENS] = np.array([self.num_cached_tokens], dtype=np.uint32)
        if reason is not None:
            outputs[contract.NUM_TRUNCATED_TOKENS] = np.array([self.num_truncated_tokens], dtype=np.uint32)
        return outputs


def nonfinite_logits() -> InferenceFailure:
    """Build the failure of a model that gives NaN or infinite logits."""
    return InferenceFailure(
        "the model's output is not a number (NaN or infinity) for this prompt; the checkpoint is broken, or its dtype "
        "overflows: try dtype float32",
        reason="NONFINITE_LOGITS",
        code="FAILED_PRECONDITION",
    )
