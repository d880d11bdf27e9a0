"""The engine's one thread: takes what waits, forms batches of it, and never does anything else in between.

Generation and scoring take turns: one pass over newly arrived prompts, one over contexts and continuations to score,
one token for every running sequence, and so on. Nothing waits for a batch to fill.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

import torch

from services.inference.engines import seams
from services.inference.engines.generation import GenerationBatch
from services.inference.engines.generation_request import GenerationRequest
from services.inference.engines.reporting import publish_or_log
from services.inference.engines.scoring_request import ScoringRequest
from services.inference.engines.scoring_turns import ScoringTurns
from services.inference.engines.seams import EngineMetrics
from services.inference.engines.sequence_model import SequenceModel
from services.inference.failures import InferenceFailure

_logger = logging.getLogger(__name__)

_PUBLISH_SECONDS: Final = 0.5
_SCORED_TOGETHER: Final = 64
"""How many of the oldest scoring requests are looked at together for what they share."""


Request = TypeVar("Request", GenerationRequest, ScoringRequest)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is computed together.

    Attributes:
        max_sequences: sequences generated together.
        kv_tokens: cached tokens, padding included, of all running sequences.
        kv_bytes: memory of all cached keys and values, shared prefixes included.
    """

    max_sequences: int
    kv_tokens: int
    kv_bytes: int


@dataclass(slots=True)
class _Totals:
    cancelled: int = 0
    busy_seconds: float = 0.0
    published_at: float = field(default_factory=time.monotonic)


class Scheduler:
    """Runs generation and scoring requests of one model in one thread.

    Args:
        model: computes tokens.
        limits: bounds on a batch.
        metrics: where to report.
        turn: held while something is computed, for engines that share a process; it must be reusable.
        end_process: ends the process at once, with a status.
    """

    def __init__(
        self,
        model: SequenceModel,
        limits: Limits,
        metrics: EngineMetrics,
        turn: AbstractContextManager[object] | None = None,
        *,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._end_process = end_process
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._turn = turn or nullcontext()
        self._batch = GenerationBatch(model)
        self._scorings = ScoringTurns(model)
        self._admission: Iterator[None] = iter(())
        self._wake = threading.Condition()
        self._waiting_prompts: deque[GenerationRequest] = deque()
        self._waiting_scorings: deque[ScoringRequest] = deque()
        self._is_closing = False
        self._totals = _Totals()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest | ScoringRequest) -> None:
        """Queue a request; returns at once. A closed scheduler answers that it is stopping."""
        with self._wake:
            if not self._is_closing:
                if isinstance(request, GenerationRequest):
                    self._waiting_prompts.append(request)
                else:
                    self._waiting_scorings.append(request)
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
        """Compute one pass of prompts, one of scores, and one step of what is generated."""
        started = time.perf_counter()
        with self._surviving(self._batch.fail_entering):
            self._compute_prompts()
        with self._surviving(self._scorings.fail_all):
            self._compute_scores()
        if self._batch.rows:
            with self._surviving(self._batch.fail_all):
                self._batch.step()
        self._totals.busy_seconds += time.perf_counter() - started

    def _compute_prompts(self) -> None:
        if not self._batch.num_entering:
            self._admission = self._batch.admit(self._not_cancelled(self._take_prompts()))
        next(self._admission, None)

    def _compute_scores(self) -> None:
        if not self._scorings.num_waiting:
            with self._wake:
                count = min(len(self._waiting_scorings), _SCORED_TOGETHER)
                requests = [self._waiting_scorings.popleft() for _ in range(count)]
            self._scorings.take_up(self._not_cancelled(requests))
        self._scorings.compute_pass()

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
        is_computing = self._batch.rows or self._batch.num_entering or self._scorings.num_waiting
        return bool(is_computing or self._waiting_prompts or self._waiting_scorings)

    def _take_prompts(self) -> list[GenerationRequest]:
        """Take the oldest prompts that fit beside what runs; the first always fits into an empty batch."""
        count = len(self._batch.rows)
        with self._wake:
            waiting = list(islice(self._waiting_prompts, max(0, self._limits.max_sequences - count)))
        if not waiting:
            return []
        # Not under the lock, which every caller needs. Only this thread takes requests out, so they stay the first.
        longest = max(map(self._own_tokens_of_row, self._batch.rows), default=0)
        num_taken = 0
        for request in waiting:
            longest = max(longest, self._own_tokens(request))
            if count and (count + 1) * longest > self._limits.kv_tokens:
                break
            num_taken, count = num_taken + 1, count + 1
        with self._wake:
            return [self._waiting_prompts.popleft() for _ in range(num_taken)]

    def _own_tokens_of_row(self, request: GenerationRequest) -> int:
        """Count once, now that its prompt is cached: asking costs a walk over the prompt."""
        if request.own_tokens is None:
            request.own_tokens = self._own_tokens(request)
        return request.own_tokens

    def _own_tokens(self, request: GenerationRequest) -> int:
        """Return how many tokens a sequence needs room for, at most, besides what it shares."""
        return request.longest_tokens - self._model.cached_tokens(request.prompt)

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
        except torch.AcceleratorError:
            # CUDA answers everything with this error from now on. Only a new process has a GPU again, and the client
            # notices that this one is gone.
            _logger.exception("engine_lost_its_gpu")
            self._end_process(1)
        except Exception:  # the engine thread must outlive any batch, or every later request hangs
            _logger.exception("engine_batch_failed")
            fail(InferenceFailure("the engine failed on this batch", reason="ENGINE_FAILED", code="INTERNAL"))

    def _fail_everything(self) -> None:
        with self._wake:
            waiting: list[GenerationRequest | ScoringRequest] = [*self._waiting_prompts, *self._waiting_scorings]
            self._waiting_prompts.clear()
            self._waiting_scorings.clear()
        self._batch.fail_all(_stopping())
        self._scorings.fail_all(_stopping())
        for request in waiting:
            request.responder.fail(_stopping())

    def _publish(self) -> None:
        self._totals.published_at = time.monotonic()
        generated, tokens = self._batch.counts, self._model.counts
        with self._wake:
            waiting = len(self._waiting_prompts) + len(self._waiting_scorings)
        waiting += self._batch.num_entering + self._scorings.num_waiting
        publish_or_log(
            self._metrics,
            {
                seams.RUNNING_SEQUENCES: len(self._batch.rows),
                seams.WAITING_REQUESTS: waiting,
                seams.PROMPT_TOKENS: tokens.computed,
                seams.CACHED_TOKENS: tokens.cached,
                seams.PADDING_TOKENS: tokens.padding,
                seams.GENERATED_TOKENS: generated.generated_tokens,
                seams.SCORED_CONTINUATIONS: self._scorings.num_scored,
                seams.CANCELLED_REQUESTS: generated.cancelled + self._scorings.num_cancelled + self._totals.cancelled,
                seams.KV_CACHE_USAGE: self._model.kv_bytes / self._limits.kv_bytes,
                seams.BUSY_SECONDS: self._totals.busy_seconds,
            },
        )


def _stopping() -> InferenceFailure:
    return InferenceFailure("the model is being unloaded", reason="INFERENCE_STOPPING", code="UNAVAILABLE")
