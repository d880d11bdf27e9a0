"""The tensors of TensorRT-LLM's Triton backend: its ``ensemble`` and its ``tensorrt_llm_bls`` model.

Names and types as its configurations have them (docs/foreign-tritons.md). Where it differs from what is meant here:
stop words are matched on token ids and stay in the text, so the text is cut here; without a seed every request draws
the same, so there always is one; there is no finish reason, so it follows from the counts; pieces of a streamed answer
are decoded one by one, which breaks characters, so an answer comes as a whole.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from services.generation.foreign.adapter import ForeignPiece, WireRequest, check_tensors, count_of, text_of
from services.generation.foreign.connection import ModelShape
from services.generation.foreign.errors import ForeignAnswerError, ForeignUnsupportedError
from services.generation.foreign.tokenizer import WireChoices, WirePrompt
from services.generation.requests import ContinuationScore, FinishReason, Sampling
from services.inference.errors import as_fleet_errors
from services.inference.sampling import SamplingParameters, check_sampling_parameters
from services.inference.tensors import Array, text_array
from services.runtime.errors import FieldViolation, InvalidArgumentError

_INPUTS: Final = {
    "text_input": "TYPE_STRING",
    "max_tokens": "TYPE_INT32",
    "exclude_input_in_output": "TYPE_BOOL",
    "return_num_input_tokens": "TYPE_BOOL",
    "return_num_output_tokens": "TYPE_BOOL",
    "stop_words": "TYPE_STRING",
    "temperature": "TYPE_FP32",
    "top_k": "TYPE_INT32",
    "top_p": "TYPE_FP32",
    "seed": "TYPE_UINT64",
}
_OUTPUTS: Final = {"text_output": "TYPE_STRING", "num_input_tokens": "TYPE_INT32", "num_output_tokens": "TYPE_INT32"}
_LOGITS: Final = "generation_logits"
_RETURN_LOGITS: Final = "return_generation_logits"


class TensorRtLlmAdapter:
    """Implements ``ForeignAdapter`` for TensorRT-LLM's ensemble and its BLS model."""

    streams = False

    def check(self, shape: ModelShape) -> None:
        """Compare the configuration; it may be batched or not, decoupled or not.

        Raises:
            ForeignModelMismatchError: see ``check_tensors``.
        """
        check_tensors(shape, _INPUTS, _OUTPUTS, "TensorRT-LLM's ensemble and tensorrt_llm_bls")

    def generation(self, prompt: WirePrompt, sampling: Sampling, shape: ModelShape, *, stream: bool) -> WireRequest:
        """Write a request to generate.

        Raises:
            InvalidArgumentError: INVALID_SAMPLING_PARAMETERS.
        """
        with as_fleet_errors():
            check_sampling_parameters(
                SamplingParameters(
                    max_tokens=sampling.max_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    seed=sampling.seed,
                    stop=sampling.stop,
                )
            )
        inputs = _prompt_inputs(prompt, sampling.max_tokens) | _choice_inputs(sampling)
        if sampling.stop:
            inputs["stop_words"] = text_array(*sampling.stop)
        return WireRequest(_shaped(inputs, shape), tuple(_OUTPUTS))

    def read_piece(self, outputs: Mapping[str, Array], sampling: Sampling) -> ForeignPiece:
        """Read the response: cut at the first stop string, and with the finish reason that the counts tell.

        Raises:
            ForeignAnswerError: it is no answer.
        """
        text, tokens = text_of(outputs, "text_output"), count_of(outputs, "num_output_tokens")
        ends = [end for stop in sampling.stop if (end := text.find(stop)) >= 0]
        reached_limit = not ends and tokens >= sampling.max_tokens
        return ForeignPiece(
            text=text[: min(ends)] if ends else text,
            output_tokens=tokens,
            input_tokens=count_of(outputs, "num_input_tokens"),
            finish_reason=FinishReason.LENGTH if reached_limit else FinishReason.STOP,
        )

    def scoring(self, choices: WireChoices, shape: ModelShape) -> WireRequest:
        """Ask for the logits of the next token, once for all choices.

        Raises:
            ForeignUnsupportedError: the model has none in single precision.
        """
        if shape.inputs.get(_RETURN_LOGITS) != "TYPE_BOOL" or shape.outputs.get(_LOGITS) != "TYPE_FP32":
            raise ForeignUnsupportedError(
                "the foreign model cannot be scored exactly: that needs the output 'generation_logits' in TYPE_FP32 "
                "and the input 'return_generation_logits'",
                reason="FOREIGN_SCORING_UNSUPPORTED",
            )
        inputs = _prompt_inputs(choices.context, 1) | _choice_inputs(Sampling()) | {_RETURN_LOGITS: np.array([True])}
        return WireRequest(_shaped(inputs, shape), (*_OUTPUTS, _LOGITS))

    def scoring_by_name(self, choices: WireChoices, shape: ModelShape) -> WireRequest | None:
        """Return ``None``: the logits are those of all tokens."""
        return None

    def read_scores(
        self, outputs: Mapping[str, Array], choices: WireChoices, vocabulary_size: int
    ) -> Sequence[ContinuationScore]:
        """Normalise the logits of the next token.

        Raises:
            ForeignUnsupportedError: there are no logits for the whole vocabulary and nothing else.
            ForeignAnswerError: the logits are no numbers.
        """
        logits = outputs.get(_LOGITS)
        # An engine built without gather_generation_logits sends a placeholder; padded rows would spoil the sum.
        if logits is None or not vocabulary_size or logits.size != vocabulary_size:
            raise ForeignUnsupportedError(
                "the foreign model cannot be scored exactly: its engine must be built with gather_generation_logits "
                "and give one logit for each of the vocab_size tokens that config.json beside the tokenizer names "
                f"({vocabulary_size or 'none'}; it gave {0 if logits is None else logits.size})",
                reason="FOREIGN_SCORING_UNSUPPORTED",
            )
        row = logits.ravel().astype(np.float64)
        if not np.isfinite(row.max()):
            raise ForeignAnswerError("the foreign model's 'generation_logits' are no numbers")
        if max(choices.token_ids) >= row.size:
            raise ForeignUnsupportedError(
                "a continuation's token lies outside the foreign model's vocabulary",
                reason="FOREIGN_SCORING_UNSUPPORTED",
            )
        logprobs = row - row.max() - np.log(np.exp(row - row.max()).sum())
        best = int(row.argmax())
        return [ContinuationScore(float(logprobs[token]), token == best, 1) for token in choices.token_ids]

    def read_input_tokens(self, outputs: Mapping[str, Array]) -> int:
        """Read the server's count; raises ForeignAnswerError."""
        return count_of(outputs, "num_input_tokens")


def _prompt_inputs(prompt: WirePrompt, max_tokens: int) -> dict[str, Array]:
    return {
        "text_input": text_array(prompt.text),
        "max_tokens": np.array([max_tokens], np.int32),
        "exclude_input_in_output": np.array([True]),
        "return_num_input_tokens": np.array([True]),
        "return_num_output_tokens": np.array([True]),
    }


def _choice_inputs(sampling: Sampling) -> dict[str, Array]:
    """Return how tokens are chosen, in full: this backend's own defaults are greedy, and the same draws each time."""
    if sampling.temperature == 0:
        return {"top_k": np.array([1], np.int32)}
    seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % (1 << 64)
    return {
        "temperature": _single_precision("temperature", sampling.temperature),
        "top_k": np.array([max(sampling.top_k, 0)], np.int32),
        "top_p": _single_precision("top_p", sampling.top_p),
        "seed": np.array([seed], np.uint64),
    }


def _single_precision(name: str, value: float) -> Array:
    array = np.array([value], np.float32)
    if array[0] == 0:
        # The backend would take it for another way to choose tokens.
        message = f"{value!r} is 0 in the single precision of TensorRT-LLM; use a larger value"
        raise InvalidArgumentError(
            f"sampling parameter {name!r}: {message}",
            reason="INVALID_SAMPLING_PARAMETERS",
            metadata={"parameter": name},
            field_violations=(FieldViolation(f"sampling.{name}", message),),
        )
    return array


def _shaped(inputs: Mapping[str, Array], shape: ModelShape) -> Mapping[str, Array]:
    return {name: array.reshape(1, -1) for name, array in inputs.items()} if shape.is_batched else inputs
