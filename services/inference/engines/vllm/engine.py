"""The vLLM engine: the same requests and answers as our own engine's, computed by vLLM on an event loop of its own."""

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from services.inference.engines.cancellation import CANCEL_CHECK_SECONDS
from services.inference.engines.context_group import ContextGroup
from services.inference.engines.generation_request import GenerationRequest, nonfinite_logits
from services.inference.engines.reporting import publish_or_log
from services.inference.engines.scoring_request import ScoringRequest
from services.inference.engines.seams import (
    BUSY_SECONDS,
    CACHED_TOKENS,
    CANCELLED_REQUESTS,
    GENERATED_TOKENS,
    KV_CACHE_USAGE,
    METRICS,
    PROMPT_TOKENS,
    RUNNING_SEQUENCES,
    SCORED_CONTINUATIONS,
    WAITING_REQUESTS,
    EngineMetrics,
)
from services.inference.engines.vllm.scoring import score_group
from services.inference.engines.vllm.time_shares import TimeShares
from services.inference.engines.vllm.token_engine import (
    ENGINE_CRASHED,
    Adapter,
    GenerationJob,
    SchedulerWatch,
    TokenEngine,
)
from services.inference.engines.vllm.weights import WeightTurns
from services.inference.failures import InferenceFailure

_logger = logging.getLogger(__name__)

StartEngine = Callable[[SchedulerWatch], TokenEngine]
_GAUGES: Final = {"running": RUNNING_SEQUENCES, "waiting": WAITING_REQUESTS, "kv_usage": KV_CACHE_USAGE}
_COUNTERS: Final = {
    "prompt_tokens": PROMPT_TOKENS,
    "cached_tokens": CACHED_TOKENS,
    "generated_tokens": GENERATED_TOKENS,
}
_STOP_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Weights:
    """What a request is computed with.

    Attributes:
        path: folder of the checkpoint.
        stamp: tells whether the same folder was written again.
        adapter: what to add to them; weights that differ in it only need not be read again.
    """

    path: str
    stamp: Hashable
    adapter: Adapter | None = None

    @property
    def base(self) -> tuple[str, Hashable]:
        """What has to be in place."""
        return self.path, self.stamp


class VllmEngine:
    """Runs requests on a token engine, in a thread with an event loop.

    Args:
        start: starts the token engine; called on the loop.
        first: the weights that it starts with.
        metrics: where to report.
        stamp_of: reads a folder's stamp as it is now.
        totals: counters of the engine that ran before it, to go on from.

    Raises:
        InferenceFailure: it does not start.
    """

    def __init__(
        self,
        start: StartEngine,
        first: Weights,
        metrics: EngineMetrics,
        *,
        stamp_of: Callable[[str], Hashable],
        totals: Mapping[str, float] | None = None,
    ) -> None:
        self._metrics = metrics
        self._stamp_of = stamp_of
        self._figures: dict[str, float] = {**dict.fromkeys(_GAUGES.values(), 0.0), **(totals or {})}
        self._busy_before = self._figures.get(BUSY_SECONDS, 0.0)
        self._busy = self._busy_before
        self._shares = TimeShares()
        self._in_flight: dict[asyncio.Task[None], Callable[[], bool]] = {}
        self._admitting = threading.Lock()
        self._is_closing = False
        self._is_dead = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="vllm", daemon=True)
        self._thread.start()
        try:
            self._engine: TokenEngine = self._await(self._start(start))
        except BaseException:
            self._stop_loop()
            raise
        self._turns = WeightTurns(self._switch)
        if stamp_of(first.path) == first.stamp:
            self._turns.assume(first.base)
        self._watching = asyncio.run_coroutine_threadsafe(self._watch_callers(), self._loop)

    @property
    def is_dead(self) -> bool:
        """Whether vLLM's own processes are gone: nothing will be answered any more."""
        return self._is_dead

    @property
    def totals(self) -> Mapping[str, float]:
        """What the counters say now."""
        return {name: value for name, value in self._figures.items() if METRICS[name][0] == "counter"}

    def submit(self, request: GenerationRequest | ScoringRequest, weights: Weights) -> None:
        """Take a request and return before it is computed."""
        with self._admitting:
            # Whatever comes onto the loop before it is closing is failed there by the close.
            if not self._is_closing:
                self._loop.call_soon_threadsafe(self._begin, request, weights)
                return
        request.responder.fail(_closed())

    def try_out(self, weights: Weights) -> None:
        """Put weights in place and compute one token with them. Not to be called from the loop's own thread.

        Raises:
            InferenceFailure: they cannot be read, or give no numbers.
        """
        try:
            self._await(self._try_out(weights))
        except InferenceFailure as failure:
            self._is_dead = self._is_dead or failure.reason == ENGINE_CRASHED
            raise

    def close(self) -> None:
        """Fail what is left and end vLLM."""
        with self._admitting:
            self._is_closing = True
        try:
            self._await(self._fail_all())
            self._engine.close()
        finally:
            self._stop_loop()

    def _begin(self, request: GenerationRequest | ScoringRequest, weights: Weights) -> None:
        if isinstance(request, GenerationRequest):
            work = self._generate(request, weights)
        else:
            work = self._score(request, weights)
        task = self._loop.create_task(self._answer(request, work))
        self._in_flight[task] = request.was_cancelled
        task.add_done_callback(lambda done: self._ended(done, request))
        # vLLM tells of requests after its next step, of which a stuck one makes none.
        unknown = len(self._in_flight) - self._figures[RUNNING_SEQUENCES]
        self._figures[WAITING_REQUESTS] = max(self._figures[WAITING_REQUESTS], unknown)
        self._publish()

    def _ended(self, task: asyncio.Task[None], request: GenerationRequest | ScoringRequest) -> None:
        self._in_flight.pop(task, None)
        if not self._in_flight:
            self._figures[RUNNING_SEQUENCES] = self._figures[WAITING_REQUESTS] = 0.0
            self._publish()
        if task.cancelled():  # before it began
            request.responder.fail(_closed())

    async def _answer(self, request: GenerationRequest | ScoringRequest, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            if self._is_closing:
                request.responder.fail(_closed())
                return
            self._count(CANCELLED_REQUESTS, 1)
            request.responder.finish()
        except InferenceFailure as failure:
            self._is_dead = self._is_dead or failure.reason == ENGINE_CRASHED
            request.responder.fail(failure)
        except Exception:  # the caller must get an answer, whatever vLLM does
            _logger.exception("vllm_request_failed")
            request.responder.fail(InferenceFailure("the engine failed", reason="ENGINE_FAILED", code="INTERNAL"))
        finally:
            work.close()
            self._publish()

    async def _generate(self, request: GenerationRequest, weights: Weights) -> None:
        job = GenerationJob(
            prompt=request.prompt,
            sampling=request.chooser.sampling,
            max_tokens=request.max_tokens,
            ending_token_ids=request.chooser.ending_token_ids,
            # A stop text is found while the answer grows; without one there is nothing to look at before its end.
            in_pieces=request.is_streamed or bool(request.chooser.sampling.stop),
            wants_log_probabilities=request.wants_logprob,
            adapter=weights.adapter,
        )
        async with self._turns.using(weights.base):
            entered = self._shares.enter()
            try:
                async with aclosing(self._engine.generate(job)) as pieces:
                    async for piece in pieces:
                        self._went_on()
                        request.num_cached_tokens = piece.num_cached_tokens
                        request.engine_seconds = self._shares.seconds_since(entered)
                        chances = piece.log_probabilities or [0.0] * len(piece.ids)
                        for token, chance in zip(piece.ids, chances, strict=True):
                            if math.isnan(chance):
                                raise nonfinite_logits()
                            if not request.accept(token, chance):
                                return
            finally:
                self._shares.leave()
        raise InferenceFailure("vLLM ended the answer too early", reason="ENGINE_FAILED", code="INTERNAL")

    async def _score(self, request: ScoringRequest, weights: Weights) -> None:
        async with self._turns.using(weights.base):
            entered = self._shares.enter()
            try:
                for group in request.groups:
                    group.num_cached_tokens = await score_group(self._engine, group, weights.adapter)
                    self._went_on()
                request.groups[0].engine_seconds = self._shares.seconds_since(entered)
            finally:
                self._shares.leave()
        self._count(SCORED_CONTINUATIONS, len(request.continuation_lengths))
        request.answer()

    async def _try_out(self, weights: Weights) -> None:
        async with self._turns.using(weights.base):
            group = _trial()
            await score_group(self._engine, group, weights.adapter)
        if not all(math.isfinite(result.log_likelihood) for result in group.results.values()):
            raise nonfinite_logits()

    async def _switch(self, base: Hashable) -> None:
        assert isinstance(base, tuple)
        path, stamp = base
        self._check_unchanged(path, stamp)
        await self._engine.reload(path)
        # Written to while it was read: what is in place now is neither the old checkpoint nor the new one.
        self._check_unchanged(path, stamp)

    def _check_unchanged(self, path: str, stamp: Hashable) -> None:
        if self._stamp_of(path) != stamp:
            raise InferenceFailure(
                f"the weights in {path} have changed since the checkpoint was registered; register it again",
                reason="CHECKPOINT_CHANGED",
                code="FAILED_PRECONDITION",
                metadata={"path": path},
            )

    async def _watch_callers(self) -> None:
        """Cancel what nobody waits for any more.

        Asked on the loop, where the answers are sent from, too: Triton crashes when a request is asked for in another
        thread while its answer is completed.
        """
        while True:
            await asyncio.sleep(CANCEL_CHECK_SECONDS)
            for task, was_cancelled in list(self._in_flight.items()):
                if not task.done() and was_cancelled():
                    task.cancel()

    async def _fail_all(self) -> None:
        self._watching.cancel()
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)

    async def _start(self, start: StartEngine) -> TokenEngine:
        return start(self._told)

    def _told(self, figures: Mapping[str, float]) -> None:
        """Take the scheduler's figures; vLLM calls this on the loop after each step."""
        for name, metric in _GAUGES.items():
            if name in figures:
                self._figures[metric] = figures[name]
        for name, metric in _COUNTERS.items():
            self._figures[metric] = self._figures.get(metric, 0.0) + figures.get(name, 0.0)
        self._went_on()
        self._publish()

    def _went_on(self) -> None:
        """Count the time until now as busy: vLLM has made a step. What a stuck one holds is no work."""
        self._busy = self._busy_before + self._shares.busy_seconds

    def _count(self, metric: str, more: float) -> None:
        self._figures[metric] = self._figures.get(metric, 0.0) + more

    def _publish(self) -> None:
        self._figures[BUSY_SECONDS] = self._busy
        publish_or_log(self._metrics, self._figures)

    def _await(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)


def _trial() -> ContextGroup:
    return ContextGroup(context=(0,), members=((0, (0,)),))


def _closed() -> InferenceFailure:
    return InferenceFailure("the model is being unloaded", reason="MODEL_NOT_LOADED", code="UNAVAILABLE")
