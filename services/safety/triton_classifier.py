"""The classifier inside Triton: loaded when it is missing, and again after Triton or its process was lost."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from services.inference.contract import ModelEntry
from services.inference.model_loading import ModelLoading
from services.inference.results import Classified
from services.runtime.usage import Usage
from services.safety.errors import GUARD_LOADING, GuardLoadError, UnusableAnswerError
from services.safety.guard import LabelledText
from services.safety.windows import MAX_WINDOWS


class ClassifierHost(Protocol):
    """What is used of the inference room's client; see ``InferenceClient`` for its errors."""

    async def is_ready(self) -> bool:
        """Return whether the host answers; never raises."""

    async def is_model_ready(self, model: str) -> bool:
        """Return whether a model takes requests; never raises."""

    async def load_model(self, name: str, entry: ModelEntry, *, timeout_seconds: float) -> None:
        """Load a model and return when it is ready."""

    async def unload_model(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a model."""

    async def classifier_labels(self, model: str, *, timeout_seconds: float) -> tuple[str, ...]:
        """Return the labels of a loaded classifier."""

    async def classify(
        self, model: str, texts: Sequence[str], *, timeout_seconds: float, max_windows: int
    ) -> Classified:
        """Classify a batch of texts, each in at most so many windows."""


class TritonClassifier:
    """Implements ``Classifier`` with a model of an inference host, loaded through model control.

    Args:
        host: client of the inference host; with the model-control key, unless the host loads the model by itself.
        model: name of the model there. It should name the content too: a loaded name is taken as it is.
        entry: what to load.
        labels: of the model; a loaded model of this name with other labels is refused.
        load_timeout_seconds: longest load.
        ready_wait_seconds: longest that a call waits for a load.
        max_windows: most windows of one text.
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
        max_windows: int = MAX_WINDOWS,
    ) -> None:
        self._host = host
        self._model = model
        self._entry = entry
        self._labels = tuple(labels)
        self._max_windows = max_windows
        self._load_timeout_seconds = load_timeout_seconds
        self._loading = ModelLoading(model, GUARD_LOADING, self._load, ready_wait_seconds=ready_wait_seconds)

    async def close(self) -> None:
        """Give up a load in progress; the model stays where it is, for whoever comes next."""
        await self._loading.close()

    async def is_ready(self) -> bool:
        """Return whether the model takes requests; begin to load it if it does not."""
        if self._loading.is_running:
            return False
        if await self._host.is_model_ready(self._model):
            return True
        if await self._host.is_ready():
            self._loading.begin()
        else:
            self._loading.forget_host()
        return False

    async def classify(self, texts: Sequence[str], *, timeout_seconds: float) -> Sequence[LabelledText]:
        """Classify texts; a model that was lost is loaded again first, as far as the time allows.

        Raises:
            GuardUnavailableError: the model is away and does not come back in time.
            GuardLoadError: the inference host refuses the model.
            FleetError: there is no answer.
        """

        async def ask(seconds: float) -> Classified:
            return await self._host.classify(self._model, texts, timeout_seconds=seconds, max_windows=self._max_windows)

        return self._read(await self._loading.retried(ask, timeout_seconds))

    async def _load(self, restart: bool) -> None:
        limit = self._load_timeout_seconds
        if restart:
            await self._host.unload_model(self._model, timeout_seconds=limit)
        if restart or not await self._host.is_model_ready(self._model):
            await self._host.load_model(self._model, self._entry, timeout_seconds=limit)
        labels = await self._host.classifier_labels(self._model, timeout_seconds=limit)
        if labels != self._labels:
            raise GuardLoadError(
                f"model {self._model!r} of the inference host has labels {', '.join(labels)}; "
                f"the guard has {', '.join(self._labels)}. Unload it there",
                reason="GUARD_LABELS_DIFFER",
                metadata={"model": self._model},
            )

    def _read(self, answer: Classified) -> list[LabelledText]:
        rows = len(answer.probabilities)
        if (
            answer.probabilities.shape[1] != len(self._labels)
            or rows != len(answer.num_tokens)
            or rows != len(answer.unknown_share)
            or rows != int(answer.num_windows.sum())
            or not answer.num_windows.all()
            or len(answer.num_windows) != len(answer.truncated)
        ):
            raise UnusableAnswerError("WRONG_ANSWER_SHAPE")
        counts = answer.num_tokens.tolist()
        # The engine measures the request; a window's share of it is that of the tokens.
        seconds_a_token = (answer.engine_seconds or 0.0) / max(1, sum(counts))
        windows = zip(answer.probabilities.tolist(), counts, answer.unknown_share.tolist(), strict=True)
        texts: list[LabelledText] = []
        for count, truncated in zip(answer.num_windows.tolist(), answer.truncated.tolist(), strict=True):
            first, *later = [
                LabelledText(
                    probabilities, tokens, truncated, usage=_usage(tokens, seconds_a_token), unknown_share=unknown
                )
                for probabilities, tokens, unknown in itertools.islice(windows, count)
            ]
            texts.append(replace(first, later=tuple(later)) if later else first)
        return texts


def _usage(tokens: int, seconds_a_token: float) -> Usage:
    return Usage(prompt_tokens=tokens, computed_prompt_tokens=tokens, engine_seconds=tokens * seconds_a_token)
