"""The sentence encoder inside Triton: found and loaded when it is first asked, and again after it was lost."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from services.inference.checkpoints import content_digest
from services.inference.contract import EncoderArguments, ModelEntry
from services.inference.failures import InferenceFailure
from services.inference.model_loading import ModelLoading
from services.inference.repository import encoder_entry
from services.inference.results import Embedded
from services.runtime.deadlines import bind_deadline, child_timeout
from services.runtime.errors import FleetError
from services.scoring.encoding.errors import ENCODER_LOADING, EncoderNotFoundError
from services.scoring.encoding.text_encoder import EncodedText, EncodedTexts

_SEARCH_AGAIN_SECONDS: Final = 30.0
"""An encoder that was not found is not looked for again for so long: the hub may be asked each time."""


class EncoderHost(Protocol):
    """What is used of the inference room's client; see ``InferenceClient`` for its errors."""

    async def is_model_ready(self, model: str) -> bool:
        """Return whether a model takes requests; never raises."""

    async def load_model(self, name: str, entry: ModelEntry, *, timeout_seconds: float) -> None:
        """Load a model and return when it is ready."""

    async def unload_model(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a model."""

    async def embed(self, model: str, texts: Sequence[str], *, timeout_seconds: float, max_windows: int) -> Embedded:
        """Return the embeddings of texts, each in at most so many windows."""


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """How much an encoder reads, and how long things may take.

    Attributes:
        max_tokens: of one window, special tokens included.
        request_seconds: longest request.
        load_seconds: longest load.
        ready_wait_seconds: longest that a request waits for a load.
    """

    max_tokens: int = 256
    request_seconds: float = 120.0
    load_seconds: float = 300.0
    ready_wait_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class _Found:
    digest: str
    name: str
    loading: ModelLoading


class TritonTextEncoder:
    """Implements ``TextEncoder`` with a model of an inference host.

    Nothing is read or loaded before the first request, so a service whose callers compare no meanings needs no encoder.

    Args:
        host: client of the inference host, with the model-control key.
        locate: returns the folder of the encoder, as the inference host sees it too; runs in a thread.
        limits: bounds.
    """

    def __init__(self, host: EncoderHost, locate: Callable[[], Path], limits: EncoderLimits) -> None:
        self._host = host
        self._locate = locate
        self._limits = limits
        self._finding: asyncio.Task[_Found] | None = None
        self._search_again_at = 0.0

    async def close(self) -> None:
        """Give up a search or a load in progress; a loaded model stays, for whoever comes next."""
        task = self._finding
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            await task.result().loading.close()

    async def encode(self, texts: Sequence[str], *, max_windows: int) -> EncodedTexts:
        """Encode texts; see ``TextEncoder``."""
        found = await self._searched()

        async def ask(seconds: float) -> Embedded:
            return await self._host.embed(found.name, texts, timeout_seconds=seconds, max_windows=max_windows)

        answer = await found.loading.retried(ask, child_timeout(self._limits.request_seconds))
        return EncodedTexts(_texts(answer), found.digest, answer.engine_seconds or 0.0)

    async def _searched(self) -> _Found:
        task = self._search()
        # It is not cancelled with who waits.
        await asyncio.wait([task])
        if isinstance(error := task.exception(), FleetError):
            raise error.again()
        return task.result()

    def _search(self) -> "asyncio.Task[_Found]":
        task = self._finding
        has_failed = task is not None and task.done() and (task.cancelled() or task.exception() is not None)
        if task is None or (has_failed and time.monotonic() >= self._search_again_at):
            # It serves all callers and outlives the call that began it.
            with bind_deadline(None):
                task = self._finding = asyncio.create_task(self._find(), name="find encoder")
        return task

    async def _find(self) -> _Found:
        try:
            entry, digest = await asyncio.to_thread(_read, self._locate, self._limits.max_tokens)
        except (InferenceFailure, FleetError) as error:
            raise self._not_found(error.message, {**error.metadata, "cause": error.reason}) from error
        except OSError as error:
            raise self._not_found(str(error), {}) from error
        name = f"encoder-{digest[:12]}"

        async def load(restart: bool) -> None:
            limit = self._limits.load_seconds
            if restart:
                await self._host.unload_model(name, timeout_seconds=limit)
            if restart or not await self._host.is_model_ready(name):
                await self._host.load_model(name, entry, timeout_seconds=limit)

        wait = self._limits.ready_wait_seconds
        return _Found(digest, name, ModelLoading(name, ENCODER_LOADING, load, ready_wait_seconds=wait))

    def _not_found(self, problem: str, metadata: Mapping[str, str]) -> EncoderNotFoundError:
        self._search_again_at = time.monotonic() + _SEARCH_AGAIN_SECONDS
        return EncoderNotFoundError(f"the sentence encoder cannot be used: {problem}", metadata=metadata)


def _read(locate: Callable[[], Path], max_tokens: int) -> tuple[ModelEntry, str]:
    located = locate().resolve()
    arguments = EncoderArguments(model=str(located), dtype="float32", max_model_len=max_tokens)
    entry = encoder_entry(arguments)
    content = f"{content_digest(located, dtype='float32')} {max_tokens}"
    return entry, hashlib.sha256(content.encode()).hexdigest()


def _texts(answer: Embedded) -> list[EncodedText]:
    texts: list[EncodedText] = []
    start = 0
    for count, is_truncated in zip(answer.num_windows.tolist(), answer.truncated.tolist(), strict=True):
        rows = slice(start, start + count)
        texts.append(EncodedText(answer.embeddings[rows], answer.num_tokens[rows], is_truncated))
        start += count
    return texts
