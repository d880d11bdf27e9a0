"""The tensors of Triton's own vLLM backend.

Names, types and traps as its sources have them (docs/foreign-tritons.md). The prompt stands before the answer unless
``exclude_input_in_output`` is true; ``num_output_tokens`` counts since the response before; the word ``None`` stands
for no finish reason yet; a bad sampling value ends in the text ``N/A``, so values are checked before they are sent.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.generation.foreign.adapter import ForeignPiece, WireRequest, check_tensors, count_of, text_of
from services.generation.foreign.connection import ModelShape
from services.generation.foreign.errors import (
    ForeignAnswerError,
    ForeignLogprobMissingError,
    ForeignModelMismatchError,
    ForeignUnsupportedError,
)
from services.generation.foreign.tokenizer import WireChoices, WirePrompt
from services.generation.requests import ContinuationScore, FinishReason, Sampling
from services.inference.errors import as_fleet_errors
from services.inference.sampling import SamplingParameters, check_sampling_parameters
from services.inference.tensors import Array, flag_array, text_array

NEXT_TOKEN_LOGPROBS: Final = 20
"""Log-probabilities asked of the next token: vLLM's own default limit (``max_logprobs``)."""

MOST_NAMED_TOKENS: Final = 128
"""Tokens that one request may name (vLLM's ``MAX_LOGPROB_TOKEN_IDS``)."""

_INPUTS: Final = {
    "text_input": "TYPE_STRING",
    "stream": "TYPE_BOOL",
    "sampling_parameters": "TYPE_STRING",
    "exclude_input_in_output": "TYPE_BOOL",
    "return_finish_reason": "TYPE_BOOL",
    "return_num_input_tokens": "TYPE_BOOL",
    "return_num_output_tokens": "TYPE_BOOL",
}
_OUTPUTS: Final = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "num_input_tokens": "TYPE_UINT32",
    "num_output_tokens": "TYPE_UINT32",
}
_LOGPROBS: Final = "logprobs"
_RETURN_LOGPROBS: Final = "return_logprobs"
_FINISH_REASONS: Final = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "None": None}
# Sums of probabilities and single log-probabilities may exceed their bounds by rounding.
_ROUNDING: Final = 1e-3


class VllmBackendAdapter:
    """Implements ``ForeignAdapter`` for the vLLM backend."""

    streams = True

    def check(self, shape: ModelShape) -> None:
        """Compare the configuration; the backend itself insists on decoupled and unbatched.

        Raises:
            ForeignModelMismatchError: see ``check_tensors``.
        """
        check_tensors(shape, _INPUTS, _OUTPUTS, "the vLLM backend")
        if not shape.is_decoupled or shape.is_batched:
            raise ForeignModelMismatchError(
                "the foreign model is no model of the vLLM backend: those are decoupled and have max_batch_size 0",
                metadata={"differences": "decoupled or max_batch_size"},
            )

    def generation(self, prompt: WirePrompt, sampling: Sampling, shape: ModelShape, *, stream: bool) -> WireRequest:
        """Write a request to generate.

        Raises:
            InvalidArgumentError: INVALID_SAMPLING_PARAMETERS.
        """
        parameters = SamplingParameters(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            stop=sampling.stop,
        )
        with as_fleet_errors():
            text = check_sampling_parameters(parameters).to_json()
        inputs = _inputs(prompt, text) | {"stream": flag_array(stream)}
        return WireRequest(inputs, tuple(_OUTPUTS))

    def read_piece(self, outputs: Mapping[str, Array], sampling: Sampling) -> ForeignPiece:
        """Read one response; one without the counts that were asked for is an error in disguise.

        Raises:
            ForeignAnswerError: it is no answer.
        """
        word = text_of(outputs, "finish_reason")
        if word not in _FINISH_REASONS:
            raise ForeignAnswerError(
                f"the foreign model ended its answer with {word[:40]!r}", metadata={"finish_reason": word[:40]}
            )
        return ForeignPiece(
            text=text_of(outputs, "text_output"),
            output_tokens=count_of(outputs, "num_output_tokens"),
            input_tokens=count_of(outputs, "num_input_tokens"),
            finish_reason=_FINISH_REASONS[word],
        )

    def scoring(self, choices: WireChoices, shape: ModelShape) -> WireRequest:
        """Ask for the most probable next tokens, once for all choices; every vLLM can tell them.

        Raises:
            ForeignUnsupportedError: the backend is too old to give log-probabilities.
        """
        if shape.inputs.get(_RETURN_LOGPROBS) != "TYPE_BOOL" or shape.outputs.get(_LOGPROBS) != "TYPE_STRING":
            raise ForeignUnsupportedError(
                "the foreign model's configuration has no input 'return_logprobs' and output 'logprobs'; a newer vLLM "
                "backend has them",
                reason="FOREIGN_SCORING_UNSUPPORTED",
            )
        return _scoring(choices, {"logprobs": NEXT_TOKEN_LOGPROBS})

    def scoring_by_name(self, choices: WireChoices, shape: ModelShape) -> WireRequest | None:
        """Ask for the choices' own tokens; only newer versions of vLLM know how, others fail."""
        tokens = sorted(set(choices.token_ids))
        return _scoring(choices, {"logprob_token_ids": tokens}) if len(tokens) <= MOST_NAMED_TOKENS else None

    def read_scores(
        self, outputs: Mapping[str, Array], choices: WireChoices, vocabulary_size: int
    ) -> Sequence[ContinuationScore]:
        """Look the choices up among the tokens that came; the most probable one is always among them.

        Raises:
            ForeignLogprobMissingError: a choice is not among them.
            ForeignAnswerError: these are no log-probabilities.
        """
        found = _next_logprobs(text_of(outputs, _LOGPROBS))
        missing = [index for index, token in enumerate(choices.token_ids) if token not in found]
        if missing:
            raise ForeignLogprobMissingError(missing=missing, returned=len(found))
        best = max(found.values())
        return [ContinuationScore(found[token], found[token] == best, 1) for token in choices.token_ids]

    def read_input_tokens(self, outputs: Mapping[str, Array]) -> int:
        """Read the server's count; raises ForeignAnswerError."""
        return count_of(outputs, "num_input_tokens")


def _scoring(choices: WireChoices, wanted: Mapping[str, Any]) -> WireRequest:
    parameters = json.dumps({"max_tokens": 1, "temperature": 0.0, "ignore_eos": True, **wanted})
    inputs = _inputs(choices.context, parameters) | {"stream": flag_array(False), _RETURN_LOGPROBS: flag_array(True)}
    return WireRequest(inputs, (*_OUTPUTS, _LOGPROBS))


def _inputs(prompt: WirePrompt, parameters: str) -> dict[str, Array]:
    return {
        "text_input": text_array(prompt.text),
        "sampling_parameters": text_array(parameters),
        "exclude_input_in_output": flag_array(True),
        "return_finish_reason": flag_array(True),
        "return_num_input_tokens": flag_array(True),
        "return_num_output_tokens": flag_array(True),
    }


def _next_logprobs(text: str) -> dict[int, float]:
    """Read the log-probabilities of the first generated position, by token id."""
    try:
        positions: Any = json.loads(text)
        found = {int(token): float(told["logprob"]) for token, told in positions[0].items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ForeignAnswerError(f"the foreign model's 'logprobs' cannot be read ({type(error).__name__})") from error
    # NaN fails the comparison; logits in place of log-probabilities fail one of the two.
    are_logprobs = bool(found) and all(value <= _ROUNDING for value in found.values())
    if not are_logprobs or not sum(math.exp(value) for value in found.values()) <= 1 + _ROUNDING:
        raise ForeignAnswerError(
            "the foreign model's 'logprobs' are no log-probabilities; its deployer must leave vLLM's logprobs_mode at "
            "raw_logprobs"
        )
    return found
