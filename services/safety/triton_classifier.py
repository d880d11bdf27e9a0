"""The classifier inside Triton: loaded when it is missing, and again after Triton or its process was lost."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import structlog

from services.inference.contract import ModelEntry
from services.inference.results import Classified
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FleetError, UnavailableError
from services.safety.errors import GuardLoadError, GuardUnavailableError, UnusableAnswerError
from services.safety.guard import LabelledText

_ENGINE_CRASHED: Final = "ENGINE_CRASHED"
_LOST_REASONS: Final = frozenset(
    {"INFERENCE_UNAVAILABLE", "INFERENCE_STOPPING", "MODEL_NOT_LOADED", "MODEL_NOT_READY", _ENGINE_CRASHED}
)
_RETRY_AFTER_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


class ClassifierHost(Protocol):
    """What is used of the inference room's client; see ``InferenceClient`` for its errors."""

    async def is_model_ready(self, model: str) -> bool:
        """Return whether a model takes requests; never raises."""

    async def load_model(self, name: str, entry: ModelEntry, *, timeout_seconds: float) -> None:
        """Load a model and return when it is ready."""

    async def unload_model(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a model."""

    async def classifier_labels(self, model: str, *, timeout_seconds: float) -> tuple[str, ...]:
        """Return the labels of a loaded classifier."""

    async def classify(self, model: str, texts: Sequence[str], *, timeout_seconds: float) -> Classified:
        """Classify a batch of texts."""


class TritonClassifier:
    """Implements ``Classifier`` with a model of an inference host, loaded through model control.

    Args:
        host: client of the inference host; with the model-control key, unless the host loads the model by itself.
        model: name of the model there. It should name the content too: a loaded name is taken as it is.
        entry: what to load.
        labels: of the model; a loaded model of this name with other labels is refused.
        load_timeout_seconds: longest load.
        ready_wait_seconds: longest that a call waits for a load.
    """

    def __init__(
        self,
        host: ClassifierHost,
        model: str,
        entry: ModelEntry,
        labels: Sequence[str],
        *,
        load_timeout_seconds: float,
        ready_wait_seconds: float,
    ) -> None:
        self._host = host
        self._model = model
        self._entry = entry
        self._labels = tuple(labels)
        self._load_timeout_seconds = load_timeout_seconds
        self._ready_wait_seconds = ready_wait_seconds
        self._loading: asyncio.Task[None] | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._not_before = 0.0
        self._refused: GuardLoadError | None = None
        self._log: Any = structlog.get_logger(__name__)

    async def close(self) -> None:
        """Give up a load in progress; the model stays where it is, for whoever comes next."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])

    async def is_ready(self) -> bool:
        """Return whether the model takes requests; begin to load it if it does not."""
        if self._loading is not None and not self._loading.done():
            return False
        if await self._host.is_model_ready(self._model):
            return True
        if time.monotonic() >= self._not_before:
            self._load_in_background()
        return False

    async def classify(self, texts: Sequence[str], *, timeout_seconds: float) -> Sequence[LabelledText]:
        """Classify texts; a model that was lost is loaded again first, as far as the time allows.

        Raises:
            GuardUnavailableError: the model is away and does not come back in time.
            GuardLoadError: the inference host refuses the model.
            FleetError: there is no answer.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            return self._read(await self._host.classify(self._model, texts, timeout_seconds=timeout_seconds))
        except FleetError as error:
            if error.reason not in _LOST_REASONS:
                raise
            lost = error
        self._log.warning("guard_lost", model=self._model, reason=lost.reason)
        await self._wait_until_loaded(lost, deadline - time.monotonic())
        try:
            answer = await self._host.classify(self._model, texts, timeout_seconds=deadline - time.monotonic())
        except FleetError as error:
            if error.reason in _LOST_REASONS:
                raise self._away(error) from error
            raise
        return self._read(answer)

    async def _wait_until_loaded(self, lost: FleetError, seconds: float) -> None:
        if self._refused is not None and time.monotonic() < self._not_before:
            raise _again(self._refused)
        task = self._load_in_background(restart=lost.reason == _ENGINE_CRASHED)
        await asyncio.wait([task], timeout=min(seconds, self._ready_wait_seconds))
        if not task.done() or task.cancelled():
            raise self._away(lost)
        error = task.exception()
        if isinstance(error, UnavailableError):
            raise self._away(error) from error
        if isinstance(error, GuardLoadError):
            raise _again(error) from error
        if error is not None:
            raise error

    def _away(self, cause: FleetError) -> GuardUnavailableError:
        return GuardUnavailableError(
            f"the guard's model {self._model!r} does not take requests now ({cause.message}); try again",
            metadata={"model": self._model, "cause": cause.reason},
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )

    def _load_in_background(self, *, restart: bool = False) -> asyncio.Task[None]:
        if self._loading is None or self._loading.done():
            # The load serves all callers and outlives the call that began it.
            with bind_deadline(None):
                self._loading = asyncio.create_task(self._load(restart), name=f"load {self._model}")
            self._loading.add_done_callback(self._load_ended)
        return self._loading

    async def _load(self, restart: bool) -> None:
        limit = self._load_timeout_seconds
        try:
            if restart:
                await self._host.unload_model(self._model, timeout_seconds=limit)
            if restart or not await self._host.is_model_ready(self._model):
                await self._host.load_model(self._model, self._entry, timeout_seconds=limit)
            labels = await self._host.classifier_labels(self._model, timeout_seconds=limit)
        except UnavailableError:
            raise
        except FleetError as error:
            raise GuardLoadError(
                f"the inference host does not load the guard's model {self._model!r}: {error.message}",
                metadata={"model": self._model, "cause": error.reason},
            ) from error
        if labels != self._labels:
            raise GuardLoadError(
                f"model {self._model!r} of the inference host has labels {', '.join(labels)}; "
                f"the guard has {', '.join(self._labels)}. Unload it there",
                reason="GUARD_LABELS_DIFFER",
                metadata={"model": self._model},
            )

    def _load_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        self._refused = error if isinstance(error, GuardLoadError) else None
        if error is None:
            self._pause_seconds, self._not_before = _FIRST_PAUSE_SECONDS, 0.0
            self._log.info("guard_ready", model=self._model)
            return
        if self._refused is not None:
            # A host that is away is asked again at once: that is cheap, and it should be found when it is back.
            self._not_before = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        self._log.warning("guard_load_failed", model=self._model, error=str(error) or type(error).__name__)

    def _read(self, answer: Classified) -> list[LabelledText]:
        columns = answer.probabilities.shape[1]
        rows = len(answer.probabilities)
        if columns != len(self._labels) or not rows == len(answer.num_tokens) == len(answer.truncated):
            raise UnusableAnswerError("WRONG_ANSWER_SHAPE")
        return [
            LabelledText(probabilities.tolist(), int(num_tokens), bool(truncated))
            for probabilities, num_tokens, truncated in zip(
                answer.probabilities, answer.num_tokens, answer.truncated, strict=True
            )
        ]


def _again(error: GuardLoadError) -> GuardLoadError:
    """Return a copy: an exception that many calls raise would collect all their tracebacks."""
    return GuardLoadError(error.message, reason=error.reason, metadata=error.metadata)
