"""What the inference client returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from services.inference import contract
from services.inference.contract import FinishReason
from services.inference.tensors import Array
from services.runtime.errors import InternalError

_FINISH_REASONS: Final = ("stop", "length")


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished answer.

    Attributes:
        text: the generated text, without the prompt and without the stop text.
        finish_reason: ``stop`` (end of sequence or a stop text) or ``length``.
        num_input_tokens: tokens of the prompt that the model saw, special tokens included.
        num_output_tokens: generated tokens, an end-of-sequence token included.
        engine_seconds: this request's share of the engine's time; None if the model does not report it.
        num_truncated_tokens: oldest prompt tokens that were dropped to fit the context.
        num_cached_tokens: prompt tokens that the engine's prefix cache held, so that they were not computed.
        cumulative_logprob: sum of the generated tokens' log-probabilities before temperature; None if not asked for.
    """

    text: str
    finish_reason: FinishReason
    num_input_tokens: int
    num_output_tokens: int
    engine_seconds: float | None = None
    num_truncated_tokens: int = 0
    num_cached_tokens: int = 0
    cumulative_logprob: float | None = None


@dataclass(frozen=True, slots=True)
class GeneratedChunk:
    """A piece of an answer as it is generated; the last one has a finish reason.

    Attributes:
        text: text since the chunk before; never part of a stop text, never half a character.
        num_output_tokens: tokens since the chunk before.
        finish_reason: set on the last chunk only.
        num_input_tokens: tokens of the prompt.
        engine_seconds: cost of the whole answer; on the last chunk, if the model reports it.
        num_truncated_tokens: oldest prompt tokens that were dropped to fit the context.
        num_cached_tokens: prompt tokens that the engine's prefix cache held.
    """

    text: str
    num_output_tokens: int
    finish_reason: FinishReason | None
    num_input_tokens: int
    engine_seconds: float | None = None
    num_truncated_tokens: int = 0
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How likely one continuation is after the context.

    Attributes:
        log_likelihood: sum of its tokens' natural-log probabilities.
        is_greedy: greedy decoding would have produced exactly these tokens.
        num_tokens: tokens of the continuation.
    """

    log_likelihood: float
    is_greedy: bool
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ScoredContinuations:
    """Scores of all continuations of one context, in the order asked.

    Attributes:
        scores: one a continuation.
        num_input_tokens: tokens of the context, counted once.
        num_truncated_tokens: most context tokens that were dropped for any continuation.
        engine_seconds: this request's share of the engine's time.
        num_cached_tokens: context tokens that the engine's prefix cache held.
    """

    scores: tuple[ContinuationScore, ...]
    num_input_tokens: int
    num_truncated_tokens: int
    engine_seconds: float | None = None
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Classified:
    """Class probabilities of a batch of texts.

    Attributes:
        probabilities: float32 [windows, labels], those of the first text first; most texts are one window.
        num_tokens: uint32 [windows], tokens that the model read.
        num_windows: uint32 [texts], at least 1 each.
        truncated: bool [texts], whether the text was longer than its windows.
        unknown_share: float32 [windows], the largest share of tokens in a stretch of 32 that stand for what the model's
            vocabulary lacks; unknown emoji count neither way, and 1 says that nothing was read.
        engine_seconds: this request's share of the engine's time.
    """

    probabilities: NDArray[np.float32]
    num_tokens: NDArray[np.uint32]
    num_windows: NDArray[np.uint32]
    truncated: NDArray[np.bool_]
    unknown_share: NDArray[np.float32]
    engine_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Sentence embeddings of a batch of texts.

    Attributes:
        embeddings: float32 [windows, dimensions], each of length 1, those of the first text first.
        num_tokens, num_windows, truncated, engine_seconds: as those of ``Classified``.
    """

    embeddings: NDArray[np.float32]
    num_tokens: NDArray[np.uint32]
    num_windows: NDArray[np.uint32]
    truncated: NDArray[np.bool_]
    engine_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RepositoryModel:
    """A model that the inference server knows: its name, Triton's state word (READY, …) and its reason."""

    name: str
    state: str
    reason: str


def _first(outputs: Mapping[str, Array], name: str) -> Any:
    array = outputs.get(name)
    return None if array is None or array.size == 0 else array.ravel()[0]


def _integer(value: Any) -> int:
    return 0 if value is None else int(value)


def _real(value: Any) -> float | None:
    return None if value is None else float(value)


def _required(outputs: Mapping[str, Array], name: str) -> Array:
    if name not in outputs:
        raise InternalError(f"the model's answer lacks {name!r}", reason="INFERENCE_ANSWER_INCOMPLETE")
    return outputs[name]


def read_chunk(values: Mapping[str, Any]) -> GeneratedChunk:
    """Read one response of a generating model, of which the first value of each tensor counts."""
    if contract.TEXT_OUTPUT not in values:
        raise InternalError(f"the model's answer lacks {contract.TEXT_OUTPUT!r}", reason="INFERENCE_ANSWER_INCOMPLETE")
    text = values[contract.TEXT_OUTPUT]
    reason = values.get(contract.FINISH_REASON)
    word = reason.decode() if isinstance(reason, bytes) else ""
    return GeneratedChunk(
        text=text.decode("utf-8") if isinstance(text, bytes) else "",
        num_output_tokens=_integer(values.get(contract.NUM_OUTPUT_TOKENS)),
        # The vLLM backend writes the word "None" until the answer is finished.
        finish_reason=cast(FinishReason, word) if word in _FINISH_REASONS else None,
        num_input_tokens=_integer(values.get(contract.NUM_INPUT_TOKENS)),
        engine_seconds=_real(values.get(contract.ENGINE_SECONDS)),
        num_truncated_tokens=_integer(values.get(contract.NUM_TRUNCATED_TOKENS)),
        num_cached_tokens=_integer(values.get(contract.NUM_CACHED_TOKENS)),
    )


def read_generated(values: Mapping[str, Any]) -> Generated:
    """Read the only response of a generating model that does not stream; see ``read_chunk``."""
    chunk = read_chunk(values)
    if chunk.finish_reason is None:
        raise InternalError("the model's answer has no finish reason", reason="INFERENCE_ANSWER_INCOMPLETE")
    return Generated(
        text=chunk.text,
        finish_reason=chunk.finish_reason,
        num_input_tokens=chunk.num_input_tokens,
        num_output_tokens=chunk.num_output_tokens,
        engine_seconds=chunk.engine_seconds,
        num_truncated_tokens=chunk.num_truncated_tokens,
        num_cached_tokens=chunk.num_cached_tokens,
        cumulative_logprob=_real(values.get(contract.CUMULATIVE_LOGPROB)),
    )


def read_scored(outputs: Mapping[str, Array], expected: int) -> ScoredContinuations:
    """Read the response to a scoring request with ``expected`` continuations."""
    likelihoods = _required(outputs, contract.CONTINUATION_LOG_LIKELIHOODS).ravel()
    greedy = _required(outputs, contract.CONTINUATION_IS_GREEDY).ravel()
    counts = _required(outputs, contract.CONTINUATION_NUM_TOKENS).ravel()
    if not len(likelihoods) == len(greedy) == len(counts) == expected:
        raise InternalError(
            f"asked for {expected} scores, got {len(likelihoods)}", reason="INFERENCE_ANSWER_INCOMPLETE"
        )
    return ScoredContinuations(
        scores=tuple(
            ContinuationScore(float(likelihood), bool(is_greedy), int(count))
            for likelihood, is_greedy, count in zip(likelihoods, greedy, counts, strict=True)
        ),
        num_input_tokens=_integer(_first(outputs, contract.NUM_INPUT_TOKENS)),
        num_truncated_tokens=_integer(_first(outputs, contract.NUM_TRUNCATED_TOKENS)),
        engine_seconds=_real(_first(outputs, contract.ENGINE_SECONDS)),
        num_cached_tokens=_integer(_first(outputs, contract.NUM_CACHED_TOKENS)),
    )


def read_classified(outputs: Mapping[str, Array], expected: int) -> Classified:
    """Read the response to a classification of ``expected`` texts."""
    probabilities, num_tokens, num_windows, truncated, seconds = _windows(outputs, contract.PROBABILITIES, expected)
    unknown_share = _required(outputs, contract.UNKNOWN_SHARE).ravel().astype(np.float32)
    if len(unknown_share) != len(num_tokens):
        raise InternalError(
            f"got {len(unknown_share)} shares of unknown tokens for {len(num_tokens)} windows",
            reason="INFERENCE_ANSWER_INCOMPLETE",
        )
    return Classified(probabilities, num_tokens, num_windows, truncated, unknown_share, seconds)


def read_embedded(outputs: Mapping[str, Array], expected: int) -> Embedded:
    """Read the response to an embedding of ``expected`` texts."""
    return Embedded(*_windows(outputs, contract.EMBEDDINGS, expected))


def _windows(
    outputs: Mapping[str, Array], name: str, expected: int
) -> tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.bool_], float | None]:
    values = _required(outputs, name)
    num_tokens = _required(outputs, contract.NUM_TOKENS).ravel().astype(np.uint32)
    num_windows = _required(outputs, contract.NUM_WINDOWS).ravel().astype(np.uint32)
    truncated = _required(outputs, contract.TRUNCATED).ravel().astype(np.bool_)
    rows = int(num_windows.sum())
    if (
        not len(num_windows) == len(truncated) == expected
        or not num_windows.all()
        or values.ndim != 2
        or not len(values) == len(num_tokens) == rows
    ):
        raise InternalError(
            f"asked for {expected} texts, got shape {values.shape} for {len(num_windows)} with {rows} windows",
            reason="INFERENCE_ANSWER_INCOMPLETE",
        )
    engine_seconds = _real(_first(outputs, contract.ENGINE_SECONDS))
    return values.astype(np.float32), num_tokens, num_windows, truncated, engine_seconds
