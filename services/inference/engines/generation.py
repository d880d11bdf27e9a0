"""Sequences that are generated together: admitted by a prefill, grown one token a step, each ended on its own."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.inference.engines.forward import ForwardPass
from services.inference.engines.generation_request import GenerationRequest, nonfinite_logits
from services.inference.engines.kv_cache import RowCache
from services.inference.engines.token_choice import choose_tokens
from services.inference.failures import InferenceFailure


@dataclass(slots=True)
class GenerationCounts:
    """What a batch has done since it was made."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    cancelled: int = 0


class GenerationBatch:
    """The running sequences of one engine; used by the engine's thread only.

    Args:
        forward: the model.
    """

    def __init__(self, forward: ForwardPass) -> None:
        self._forward = forward
        self._cache = RowCache()
        self._rows: list[GenerationRequest] = []
        self._last_tokens: list[int] = []
        self.counts = GenerationCounts()

    @property
    def rows(self) -> Sequence[GenerationRequest]:
        """The running sequences."""
        return self._rows

    def admit(self, requests: Sequence[GenerationRequest]) -> None:
        """Compute prompts together, choose each one's first token, and keep those that go on."""
        started = time.perf_counter()
        logits, computed = self._forward.prefill([request.prompt for request in requests])
        num_tokens = sum(len(request.prompt) for request in requests)
        self.counts.prompt_tokens += num_tokens
        seconds = time.perf_counter() - started
        for request in requests:
            request.engine_seconds += seconds * len(request.prompt) / num_tokens
        tokens, goes_on = self._choose(logits, requests)
        kept = [row for row, survives in enumerate(goes_on) if survives]
        if not kept:
            return
        if len(kept) < len(requests):
            computed.batch_select_indices(torch.tensor(kept, device=logits.device))
        self._cache.append_rows(computed, [len(requests[row].prompt) for row in kept])
        self._rows += [requests[row] for row in kept]
        self._last_tokens += [tokens[row] for row in kept]

    def step(self) -> None:
        """Grow every running sequence by one token and let go of those that end or were cancelled."""
        self._remove([row for row, request in enumerate(self._rows) if self._gave_up(request)])
        if not self._rows:
            return
        started = time.perf_counter()
        logits = self._forward.decode(self._last_tokens, self._cache)
        seconds = (time.perf_counter() - started) / len(self._rows)
        for request in self._rows:
            request.engine_seconds += seconds
        self._last_tokens, goes_on = self._choose(logits, self._rows)
        self._remove([row for row, survives in enumerate(goes_on) if not survives])

    def fail_all(self, failure: InferenceFailure) -> None:
        """End every running sequence with an error and start anew."""
        rows, self._rows, self._last_tokens, self._cache = self._rows, [], [], RowCache()
        for request in rows:
            request.responder.fail(failure)

    def _gave_up(self, request: GenerationRequest) -> bool:
        if not request.was_cancelled():
            return False
        self.counts.cancelled += 1
        request.responder.finish()
        return True

    def _choose(self, logits: torch.Tensor, requests: Sequence[GenerationRequest]) -> tuple[list[int], list[bool]]:
        """Choose every row's next token and hand it to the request; return the tokens and which rows go on."""
        chosen = choose_tokens(
            logits,
            [request.chooser for request in requests],
            [request.num_generated for request in requests],
            want_probabilities=any(request.wants_logprob for request in requests),
        )
        self.counts.generated_tokens += len(requests)
        goes_on: list[bool] = []
        for row, request in enumerate(requests):
            if chosen.is_finite[row]:
                log_probability = chosen.log_probabilities[row] if chosen.log_probabilities else 0.0
                goes_on.append(request.accept(chosen.ids[row], log_probability))
            else:
                request.responder.fail(nonfinite_logits())
                goes_on.append(False)
        return chosen.ids, goes_on

    def _remove(self, rows: Sequence[int]) -> None:
        if not rows:
            return
        for source, target in self._cache.remove_rows(rows):
            self._rows[target], self._last_tokens[target] = self._rows[source], self._last_tokens[source]
        del self._rows[len(self._cache.lengths) :]
        del self._last_tokens[len(self._cache.lengths) :]
