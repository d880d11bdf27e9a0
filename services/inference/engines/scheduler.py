"""The engine's one thread: takes what waits, forms batches of it, and never does anything else in between.

Generation and scoring take turns: newly arrived prompts are admitted, one scoring batch is computed, every running
sequence grows by one token, and so on. Nothing waits for a batch to fill.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final, TypeVar

import torch

from services.inference.engines import seams
from services.inference.engines.batching import padded_batches
from services.inference.engines.continuation_scoring import score_groups
from services.inference.engines.forward import ForwardPass
from services.inference.engines.generation import GenerationBatch
from services.inference.engines.generation_request import GenerationRequest
from services.inference.engines.scoring_request import ScoringRequest
from services.inference.engines.seams import EngineMetrics
from services.inference.failures import InferenceFailure

_logger = logging.getLogger(__name__)

_PUBLISH_SECONDS: Final = 0.5
_SORTED_BATCHES: Final = 4
"""How many batches' worth of the oldest scoring requests are sorted by length together."""


Request = TypeVar("Request", GenerationRequest, ScoringRequest)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is computed together.

    Attributes:
        max_sequences: sequences generated together.
        max_batched_tokens: tokens, padding included, of one prefill or scoring pass.
        kv_tokens: cached tokens, padding included, of all running sequences.
    """

    max_sequences: int
    max_batched_tokens: int
    kv_tokens: int


@dataclass(slots=True)
class _Totals:
    prompt_tokens: int = 0
    scored: int = 0
    cancelled: int = 0
    busy_seconds: float = 0.0
    published_at: float = field(default_factory=time.monotonic)


class Scheduler:
    """Runs generation and scoring requests of one model in one thread.

    Args:
        forward: the model.
        limits: bounds on a batch.
        metrics: where to report.
        turn: held while something is computed, for engines that share a process; it must be reusable.
    """

    def __init__(
        self,
        forward: ForwardPass,
        limits: Limits,
        metrics: EngineMetrics,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self._forward = forward
        self._limits = limits
        self._metrics = metrics
        self._turn = turn or nullcontext()
        self._batch = GenerationBatch(forward)
        self._wake = threading.Condition()
        self._prompts: deque[GenerationRequest] = deque()
        self._scorings: deque[ScoringRequest] = deque()
        self._formed: deque[list[ScoringRequest]] = deque()
        self._is_closing = False
        self._totals = _Totals()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest | ScoringRequest) -> None:
        """Queue a request; returns at once. A closed scheduler answers that it is stopping."""
        with self._wake:
            if not self._is_closing:
                if isinstance(request, GenerationRequest):
                    self._prompts.append(request)
                else:
                    self._scorings.append(request)
                self._wake.notify()
                return
        request.responder.fail(_stopping())

    def close(self, *, timeout_seconds: float = 10.0) -> None:
        """Fail what is queued or running and end the thread."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                with self._turn:
                    self._compute()
                if time.monotonic() - self._totals.published_at >= _PUBLISH_SECONDS:
                    self._publish()
        self._fail_everything()
        self._publish()

    def _compute(self) -> None:
        started = time.perf_counter()
        self._admit_prompts()
        self._score_one_batch()
        if self._batch.rows:
            with self._surviving(self._batch.fail_all):
                self._batch.step()
        self._totals.busy_seconds += time.perf_counter() - started

    def _wait_for_work(self) -> bool:
        """Return once there is work; False when the scheduler is closing."""
        with self._wake:
            if self._has_work():
                return not self._is_closing
        # Nothing runs now, which is worth telling before going to sleep.
        self._publish()
        with self._wake:
            self._wake.wait_for(lambda: self._is_closing or self._has_work())
            return not self._is_closing

    def _has_work(self) -> bool:
        return bool(self._batch.rows or self._formed or self._prompts or self._scorings)

    def _admit_prompts(self) -> None:
        with self._wake:
            requests = self._take_prompts()
        for group in padded_batches(
            self._not_cancelled(requests), lambda each: len(each.prompt), self._limits.max_batched_tokens
        ):
            with self._surviving(_failing(group)):
                self._batch.admit(group)

    def _take_prompts(self) -> list[GenerationRequest]:
        """Take the oldest prompts that fit beside what runs; the first always fits into an empty batch."""
        taken: list[GenerationRequest] = []
        count = len(self._batch.rows)
        longest = max((request.longest_tokens for request in self._batch.rows), default=0)
        while self._prompts and count < self._limits.max_sequences:
            longest = max(longest, self._prompts[0].longest_tokens)
            if count and (count + 1) * longest > self._limits.kv_tokens:
                break
            taken.append(self._prompts.popleft())
            count += 1
        return taken

    def _score_one_batch(self) -> None:
        if not self._formed:
            with self._wake:
                waiting = self._take_scorings()
            self._formed.extend(
                padded_batches(
                    self._not_cancelled(waiting), ScoringRequest.context_size, self._limits.max_batched_tokens
                )
            )
        if self._formed:
            requests = self._formed.popleft()
            with self._surviving(_failing(requests)):
                self._score(requests)

    def _take_scorings(self) -> list[ScoringRequest]:
        taken: list[ScoringRequest] = []
        room = _SORTED_BATCHES * self._limits.max_batched_tokens
        while self._scorings and room > 0:
            room -= self._scorings[0].num_tokens
            taken.append(self._scorings.popleft())
        return taken

    def _score(self, requests: Sequence[ScoringRequest]) -> None:
        started = time.perf_counter()
        groups = [group for request in requests for group in request.groups]
        for batch in padded_batches(groups, lambda each: len(each.context), self._limits.max_batched_tokens):
            score_groups(self._forward, batch, self._limits.kv_tokens)
        seconds = time.perf_counter() - started
        num_tokens = sum(request.num_tokens for request in requests)
        self._totals.prompt_tokens += sum(len(group.context) for group in groups)
        for request in requests:
            self._totals.scored += len(request.continuation_lengths)
            request.answer(seconds * request.num_tokens / num_tokens)

    def _not_cancelled(self, requests: Sequence[Request]) -> list[Request]:
        live: list[Request] = []
        for request in requests:
            if request.responder.is_cancelled():
                self._totals.cancelled += 1
                request.responder.finish()
            else:
                live.append(request)
        return live

    @contextmanager
    def _surviving(self, fail: Callable[[InferenceFailure], None]) -> Iterator[None]:
        """Turn an exception of a batch into its requests' failure; the thread goes on with the next batch."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError):
            _logger.exception("engine_out_of_memory")
            fail(
                InferenceFailure(
                    "the engine ran out of memory on this batch; lower max_num_seqs, max_num_batched_tokens or "
                    "kv_cache_gib",
                    reason="ENGINE_OUT_OF_MEMORY",
                    code="RESOURCE_EXHAUSTED",
                )
            )
        except Exception:  # the engine thread must outlive any batch, or every later request hangs
            _logger.exception("engine_batch_failed")
            fail(InferenceFailure("the engine failed on this batch", reason="ENGINE_FAILED", code="INTERNAL"))

    def _fail_everything(self) -> None:
        with self._wake:
            waiting: list[GenerationRequest | ScoringRequest] = [*self._prompts, *self._scorings]
            waiting += [request for batch in self._formed for request in batch]
            self._prompts.clear()
            self._scorings.clear()
            self._formed.clear()
        self._batch.fail_all(_stopping())
        for request in waiting:
            request.responder.fail(_stopping())

    def _publish(self) -> None:
        self._totals.published_at = time.monotonic()
        counts = self._batch.counts
        with self._wake:
            waiting = len(self._prompts) + len(self._scorings) + sum(map(len, self._formed))
        self._metrics.publish(
            {
                seams.RUNNING_SEQUENCES: len(self._batch.rows),
                seams.WAITING_REQUESTS: waiting,
                seams.PROMPT_TOKENS: counts.prompt_tokens + self._totals.prompt_tokens,
                seams.GENERATED_TOKENS: counts.generated_tokens,
                seams.SCORED_CONTINUATIONS: self._totals.scored,
                seams.CANCELLED_REQUESTS: counts.cancelled + self._totals.cancelled,
                seams.BUSY_SECONDS: self._totals.busy_seconds,
            }
        )


def _failing(requests: Iterable[GenerationRequest | ScoringRequest]) -> Callable[[InferenceFailure], None]:
    def fail(failure: InferenceFailure) -> None:
        for request in requests:
            request.responder.fail(failure)

    return fail


def _stopping() -> InferenceFailure:
    return InferenceFailure("the model is being unloaded", reason="INFERENCE_STOPPING", code="UNAVAILABLE")
