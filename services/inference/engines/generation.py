"""Sequences that are generated together: admitted by a prefill, grown one token a step, each ended on its own."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from services.inference.engines.context_group import ContextGroup
from services.inference.engines.device_clock import finished_at
from services.inference.engines.generation_request import GenerationRequest, nonfinite_logits
from services.inference.engines.sequence_model import Prefilled, SequenceModel
from services.inference.engines.token_choice import choose_tokens
from services.inference.failures import InferenceFailure


@dataclass(slots=True)
class GenerationCounts:
    """What a batch has done since it was made."""

    generated_tokens: int = 0
    cancelled: int = 0


class GenerationBatch:
    """The running sequences of one engine; used by the engine's thread only.

    Args:
        model: computes them.
    """

    def __init__(self, model: SequenceModel) -> None:
        self._model = model
        self._rows: list[GenerationRequest] = []
        self._last_tokens: list[int] = []
        self._entering: dict[int, tuple[GenerationRequest, ContextGroup]] = {}
        self.counts = GenerationCounts()

    @property
    def rows(self) -> Sequence[GenerationRequest]:
        """The running sequences."""
        return self._rows

    @property
    def num_entering(self) -> int:
        """Sequences whose prompts are being computed."""
        return len(self._entering)

    def admit(self, requests: Sequence[GenerationRequest]) -> Iterator[None]:
        """Compute prompts, one pass a step; choose each one's first token, and keep those that go on."""
        groups = [ContextGroup(request.prompt, was_cancelled=request.was_cancelled) for request in requests]
        self._entering = {id(group): (request, group) for request, group in zip(requests, groups, strict=True)}
        for prefilled in self._model.prefill(groups):
            if prefilled.groups:
                self._enter(prefilled)
            yield
        # Whoever was left out gave up.
        for request, _ in self._entering.values():
            self._let_go(request)
        self._entering = {}

    def _enter(self, prefilled: Prefilled) -> None:
        requests = [self._entering[id(group)][0] for group in prefilled.groups]
        for request, group in zip(requests, prefilled.groups, strict=True):
            request.engine_seconds += group.engine_seconds
            request.num_cached_tokens = group.num_cached_tokens
        tokens, goes_on = self._choose(prefilled.logits, requests)
        kept = [row for row, survives in enumerate(goes_on) if survives]
        if kept:
            prefilled.keep(kept)
            self._rows += [requests[row] for row in kept]
            self._last_tokens += [tokens[row] for row in kept]
        # Only now: until they run, a failure of the admission is theirs.
        for group in prefilled.groups:
            del self._entering[id(group)]

    def step(self) -> None:
        """Grow every running sequence by one token and let go of those that end or were cancelled."""
        self._remove([row for row, request in enumerate(self._rows) if self._gave_up(request)])
        if not self._rows:
            return
        started = time.perf_counter()
        logits = self._model.decode(self._last_tokens)
        seconds = (finished_at(logits.device) - started) / len(self._rows)
        for request in self._rows:
            request.engine_seconds += seconds
        self._last_tokens, goes_on = self._choose(logits, self._rows)
        self._remove([row for row, survives in enumerate(goes_on) if not survives])

    def fail_all(self, failure: InferenceFailure) -> None:
        """End every running or entering sequence with an error and start anew."""
        rows, self._rows, self._last_tokens = self._rows, [], []
        self._model.forget_rows()
        for request in rows:
            request.fail(failure)
        self.fail_entering(failure)

    def fail_entering(self, failure: InferenceFailure) -> None:
        """End every sequence whose prompt is being computed with an error."""
        entering, self._entering = self._entering, {}
        for request, _ in entering.values():
            request.fail(failure)

    def _gave_up(self, request: GenerationRequest) -> bool:
        if not request.was_cancelled():
            return False
        self._let_go(request)
        return True

    def _let_go(self, request: GenerationRequest) -> None:
        self.counts.cancelled += 1
        request.has_ended = True
        request.responder.finish()

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
                request.fail(nonfinite_logits())
                goes_on.append(False)
        return chosen.ids, goes_on

    def _remove(self, rows: Sequence[int]) -> None:
        if not rows:
            return
        for source, target in self._model.remove_rows(rows):
            self._rows[target], self._last_tokens[target] = self._rows[source], self._last_tokens[source]
        del self._rows[len(self._rows) - len(rows) :]
        del self._last_tokens[len(self._rows) :]
