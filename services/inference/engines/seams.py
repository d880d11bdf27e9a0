"""What an engine needs from the process that hosts it."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np

from services.inference.failures import InferenceFailure

Tensors = Mapping[str, np.ndarray[Any, np.dtype[Any]]]
"""Tensors by name; texts are bytes in an object array."""


def texts(*values: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Build a one-dimensional tensor of UTF-8 texts."""
    return np.array([value.encode("utf-8", errors="replace") for value in values], dtype=np.object_)


def decoded_texts(tensors: Tensors, name: str) -> list[str]:
    """Read a tensor of texts.

    Raises:
        InferenceFailure: TENSOR_MISSING or TEXT_NOT_UTF8.
    """
    if name not in tensors:
        raise InferenceFailure(f"input {name!r} is missing", reason="TENSOR_MISSING", field=name)
    try:
        return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in tensors[name].ravel()]
    except UnicodeDecodeError as error:
        raise InferenceFailure(f"{name} is not UTF-8: {error}", reason="TEXT_NOT_UTF8", field=name) from error


class Responder(Protocol):
    """The way back for one request. No method raises: the caller may be gone at any time."""

    def send(self, tensors: Tensors) -> None:
        """Send one response; more follow."""

    def finish(self, tensors: Tensors | None = None) -> None:
        """End the request, with a last response or without one."""

    def fail(self, failure: InferenceFailure) -> None:
        """End the request with an error."""

    def is_cancelled(self) -> bool:
        """Return whether the caller gave up; costs a message between processes inside Triton."""


class EngineMetrics(Protocol):
    """Where an engine reports what it does; names come from METRICS."""

    def publish(self, values: Mapping[str, float]) -> None:
        """Replace the published value of each name."""


RUNNING_SEQUENCES: Final = "evalfleet_engine_running_sequences"
WAITING_REQUESTS: Final = "evalfleet_engine_waiting_requests"
KV_CACHE_USAGE: Final = "evalfleet_engine_kv_cache_usage_ratio"
CACHED_TOKENS: Final = "evalfleet_engine_cached_tokens_total"
PADDING_TOKENS: Final = "evalfleet_engine_padding_tokens_total"
PROMPT_TOKENS: Final = "evalfleet_engine_prompt_tokens_total"
GENERATED_TOKENS: Final = "evalfleet_engine_generated_tokens_total"
SCORED_CONTINUATIONS: Final = "evalfleet_engine_scored_continuations_total"
CLASSIFIED_TEXTS: Final = "evalfleet_engine_classified_texts_total"
CANCELLED_REQUESTS: Final = "evalfleet_engine_cancelled_requests_total"
BUSY_SECONDS: Final = "evalfleet_engine_busy_seconds_total"

METRICS: Final[Mapping[str, tuple[str, str]]] = {
    RUNNING_SEQUENCES: ("gauge", "Sequences that are being generated"),
    WAITING_REQUESTS: ("gauge", "Requests that wait for the engine"),
    KV_CACHE_USAGE: ("gauge", "Share of the memory for keys and values in use, shared prefixes included"),
    PROMPT_TOKENS: ("counter", "Tokens of prompts, contexts and continuations that were computed"),
    CACHED_TOKENS: ("counter", "Tokens that were needed and taken from a shared prefix"),
    PADDING_TOKENS: ("counter", "Padding that was computed for nothing"),
    GENERATED_TOKENS: ("counter", "Tokens that were generated"),
    SCORED_CONTINUATIONS: ("counter", "Continuations that were scored"),
    CLASSIFIED_TEXTS: ("counter", "Texts that were classified"),
    CANCELLED_REQUESTS: ("counter", "Requests whose caller gave up"),
    BUSY_SECONDS: ("counter", "Seconds that the engine computed"),
}
"""Kind and help text of every metric, by name; each is labelled with the model's name."""
