"""The sequence-classifier engine: texts of many requests in, class probabilities out, one forward pass after the other.

A sentence encoder is the same engine with embeddings for its rows.

What is computed next is chosen anew for every pass, and a request is answered when its own last window is computed,
whatever else waits: a short text does not wait for the page that came before it.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from services.inference import contract
from services.inference.contract import ClassifierArguments, EncoderArguments
from services.inference.engines import seams
from services.inference.engines.classifier_jobs import ClassifierJob, Pass, next_pass
from services.inference.engines.classifier_models import LoadedClassifier, load_classifier, load_encoder
from services.inference.engines.classifier_variants import converted
from services.inference.engines.reporting import publish_or_log
from services.inference.engines.request_reading import answering_failures
from services.inference.engines.seams import EngineMetrics, Responder, Tensors, decoded_texts
from services.inference.engines.text_windows import WindowReader
from services.inference.failures import InferenceFailure

_logger = logging.getLogger(__name__)

_PUBLISH_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 0.5
"""Of a request that has waited so long, its caller may be gone; asking costs a message between processes."""
_CPU_PASS_TOKENS: Final = 512
"""On CPUs a longer pass computes hardly more tokens a second, and whatever arrives meanwhile waits for its end."""
_GPU_PASS_TOKENS: Final = 16384


@dataclass(frozen=True, slots=True)
class ClassifiedTexts:
    """Results of several texts.

    Attributes:
        probabilities: float32 [windows, labels], the windows of the first text first.
        num_tokens: uint32 [windows], tokens of each.
        num_windows: uint32 [texts], windows of each.
        truncated: bool [texts], whether the text was longer than its windows.
        unknown_share: float32 [windows], see ``TextWindows``.
        engine_seconds: what computing them took of the engine's time.
    """

    probabilities: NDArray[np.float32]
    num_tokens: NDArray[np.uint32]
    num_windows: NDArray[np.uint32]
    truncated: NDArray[np.bool_]
    unknown_share: NDArray[np.float32]
    engine_seconds: float


class SequenceClassifierEngine:
    """Classifies texts with one checkpoint, in a thread of its own.

    Args:
        loaded: the checkpoint in memory.
        arguments: bounds on a request and on a pass.
        metrics: where to report.
        rows: name of the tensor of what the checkpoint gives for each window.
    """

    def __init__(
        self,
        loaded: LoadedClassifier,
        arguments: ClassifierArguments | EncoderArguments,
        metrics: EngineMetrics,
        rows: str = contract.PROBABILITIES,
    ) -> None:
        self._loaded = loaded
        self._rows = rows
        self._reader = WindowReader(loaded.tokenizer, loaded.max_tokens, arguments.window_tokens)
        self._max_texts = arguments.max_batch_size
        usual = _CPU_PASS_TOKENS if loaded.device.type == "cpu" else _GPU_PASS_TOKENS
        self._pass_tokens = arguments.max_num_batched_tokens or usual
        self._metrics = metrics
        self._totals = dict.fromkeys(
            (seams.CLASSIFIED_TEXTS, seams.PROMPT_TOKENS, seams.CANCELLED_REQUESTS, seams.BUSY_SECONDS), 0.0
        )
        self._published_at = time.monotonic()
        self._wake = threading.Condition()
        self._arrived: list[ClassifierJob] = []
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="classifier", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, arguments: ClassifierArguments, metrics: EngineMetrics) -> "SequenceClassifierEngine":
        """Load a classifier and start its engine.

        Raises:
            InferenceFailure: the checkpoint or its head cannot be used.
        """
        loaded = load_classifier(arguments)
        if arguments.variant != "torch":
            loaded = replace(loaded, probabilities=converted(loaded, arguments))
        return cls(loaded, arguments, metrics)

    @classmethod
    def load_encoder(cls, arguments: EncoderArguments, metrics: EngineMetrics) -> "SequenceClassifierEngine":
        """Load a sentence encoder and start its engine.

        Raises:
            InferenceFailure: the checkpoint cannot be used.
        """
        return cls(load_encoder(arguments), arguments, metrics, contract.EMBEDDINGS)

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Take a request and return before it is computed; a bad one is answered with its failure."""
        with answering_failures(responder):
            job = self._job(tensors, responder)
            with self._wake:
                if not self._is_closing:
                    self._arrived.append(job)
                    self._wake.notify()
                    return
            raise _stopping()

    def classify(self, texts: Sequence[str], *, max_windows: int = 1) -> ClassifiedTexts:
        """Classify texts and wait for it.

        Raises:
            InferenceFailure: what the request ended with.
        """
        answer = _Awaited()
        self.submit(
            {
                contract.TEXT: seams.texts(*texts),
                contract.MAX_WINDOWS: np.array([max_windows], dtype=np.uint32),
            },
            answer,
        )
        found = answer.wait()
        return ClassifiedTexts(
            found[self._rows],
            found[contract.NUM_TOKENS],
            found[contract.NUM_WINDOWS],
            found[contract.TRUNCATED],
            found[contract.UNKNOWN_SHARE],
            float(found[contract.ENGINE_SECONDS][0]),
        )

    def close(self, *, timeout_seconds: float = 10.0) -> None:
        """Fail what is left and end the thread."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join(timeout_seconds)

    def _job(self, tensors: Tensors, responder: Responder) -> ClassifierJob:
        texts = decoded_texts(tensors, contract.TEXT)
        if not texts:
            raise InferenceFailure("the request has no texts", reason="TEXTS_EMPTY", field=contract.TEXT)
        if len(texts) > self._max_texts:
            raise InferenceFailure(
                f"a request may hold up to {self._max_texts} texts", reason="BATCH_TOO_LARGE", field=contract.TEXT
            )
        max_windows = int(tensors[contract.MAX_WINDOWS].ravel()[0]) if contract.MAX_WINDOWS in tensors else 1
        if max_windows < 1:
            raise InferenceFailure("must be at least 1", reason="TENSOR_INVALID", field=contract.MAX_WINDOWS)
        return ClassifierJob(texts, max_windows, responder, time.monotonic())

    def _run(self) -> None:
        jobs: list[ClassifierJob] = []
        try:
            with torch.inference_mode():
                while self._take_arrivals(jobs):
                    self._advance(jobs)
        except BaseException:  # nobody computes any more: what waits and what comes later is refused, or it would hang
            _logger.exception("classifier_died")
        with self._wake:
            self._is_closing = True
            jobs += self._arrived
            self._arrived = []
        _fail(jobs, _stopping())
        self._publish(0)

    def _advance(self, jobs: list[ClassifierJob]) -> None:
        """Compute one pass and leave the requests that are not answered."""
        try:
            jobs[:] = self._computed(self._without_abandoned(jobs))
        except Exception as error:  # the thread must outlive any pass
            _logger.exception("classifier_failed")
            _fail(jobs, _failed(error))
            jobs.clear()
        if time.monotonic() - self._published_at >= _PUBLISH_SECONDS:
            self._publish(len(jobs))

    def _take_arrivals(self, jobs: list[ClassifierJob]) -> bool:
        """Take what has arrived, and wait where there is nothing; False when the engine is closing."""
        if not jobs:
            with self._wake:
                is_idle = not self._arrived and not self._is_closing
            if is_idle:
                # Nothing is computed now, which is worth telling before going to sleep.
                self._publish(0)
        with self._wake:
            self._wake.wait_for(lambda: self._is_closing or self._arrived or jobs)
            jobs += self._arrived
            self._arrived = []
            return not self._is_closing

    def _without_abandoned(self, jobs: list[ClassifierJob]) -> list[ClassifierJob]:
        """Drop requests whose callers gave up; asked once of each that has waited for long."""
        now = time.monotonic()
        live: list[ClassifierJob] = []
        for job in jobs:
            if now - job.asked_at >= _PATIENCE_SECONDS:
                job.asked_at = now
                if job.responder.is_cancelled():
                    self._totals[seams.CANCELLED_REQUESTS] += 1
                    job.responder.finish()
                    continue
            live.append(job)
        return live

    def _computed(self, jobs: Sequence[ClassifierJob]) -> list[ClassifierJob]:
        """Compute one pass, answer what is complete, and return the requests that are left."""
        if not jobs:
            return []
        started = time.perf_counter()
        chosen = next_pass(jobs, self._reader, time.monotonic(), self._pass_tokens, self._loaded.max_tokens)
        readable = _without_unreadable(jobs)
        if not chosen.windows:
            return readable
        concerned = {id(job): job for job, _ in chosen.windows}
        try:
            found = self._probabilities(chosen)
        except Exception as error:  # a pass that fails takes nothing with it but its own requests
            _logger.exception("classifier_pass_failed")
            _fail(list(concerned.values()), _failed(error))
            return [job for job in readable if id(job) not in concerned]
        for (job, window), values in zip(chosen.windows, found, strict=True):
            job.take(window, values)
        seconds = time.perf_counter() - started
        for job, _ in chosen.windows:
            job.engine_seconds += seconds / len(chosen.windows)
        self._totals[seams.BUSY_SECONDS] += seconds
        return [job for job in readable if not self._answered(job)]

    def _probabilities(self, chosen: Pass) -> NDArray[np.float32]:
        tokenizer, device = self._loaded.tokenizer, self._loaded.device
        ids, mask = chosen.ids(tokenizer.pad_token_id or 0, pads_left=tokenizer.padding_side == "left")
        found = self._loaded.probabilities(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
        return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def _answered(self, job: ClassifierJob) -> bool:
        """Answer a request that is complete."""
        if not job.is_complete:
            return False
        answer = job.tensors(self._rows)
        self._totals[seams.CLASSIFIED_TEXTS] += job.num_texts
        self._totals[seams.PROMPT_TOKENS] += job.num_tokens
        if np.isfinite(answer[self._rows]).all():
            job.responder.finish(answer)
        else:
            job.responder.fail(
                InferenceFailure(
                    "the model's output is not a number; the checkpoint is broken or its dtype overflows",
                    reason="NONFINITE_LOGITS",
                    code="FAILED_PRECONDITION",
                )
            )
        return True

    def _publish(self, waiting: int) -> None:
        self._published_at = time.monotonic()
        publish_or_log(self._metrics, {**self._totals, seams.WAITING_REQUESTS: waiting})


class _Awaited:
    """A responder to wait on."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._answer: Tensors | InferenceFailure | None = None

    def send(self, tensors: Tensors) -> None:
        """Keep the answer."""
        self._answer = tensors

    def finish(self, tensors: Tensors | None = None) -> None:
        """Keep the answer, if there is one, and end the wait."""
        self._answer = self._answer if tensors is None else tensors
        self._ended.set()

    def fail(self, failure: InferenceFailure) -> None:
        """Keep the failure and end the wait."""
        self._answer = failure
        self._ended.set()

    def is_cancelled(self) -> bool:
        """Return that somebody waits."""
        return False

    def wait(self) -> Tensors:
        """Return the answer, or raise the failure."""
        self._ended.wait()
        if isinstance(self._answer, InferenceFailure):
            raise self._answer
        assert self._answer is not None
        return self._answer


def _fail(jobs: Sequence[ClassifierJob], failure: InferenceFailure) -> None:
    for job in jobs:
        job.responder.fail(failure)


def _without_unreadable(jobs: Sequence[ClassifierJob]) -> list[ClassifierJob]:
    """Fail the requests with a text that cannot be divided into tokens; return the others."""
    for job in jobs:
        if job.failure is not None:
            job.responder.fail(_failed(job.failure))
    return [job for job in jobs if job.failure is None]


def _failed(error: BaseException) -> InferenceFailure:
    if isinstance(error, InferenceFailure):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return InferenceFailure(
            "the classifier ran out of memory; lower max_num_batched_tokens",
            reason="ENGINE_OUT_OF_MEMORY",
            code="RESOURCE_EXHAUSTED",
        )
    return InferenceFailure("the classifier failed", reason="ENGINE_FAILED", code="INTERNAL")


def _stopping() -> InferenceFailure:
    return InferenceFailure("the model is being unloaded", reason="INFERENCE_STOPPING", code="UNAVAILABLE")
