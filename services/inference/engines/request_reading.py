"""Requests as tensors to what an engine computes, with all checks that need no weights."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from services.inference import contract
from services.inference.engines.answer_text import AnswerText
from services.inference.engines.cancellation import CancelWatch
from services.inference.engines.continuation_scoring import group_by_context
from services.inference.engines.generation_request import GenerationRequest
from services.inference.engines.prompts import PromptEncoder, RenderedPrompt
from services.inference.engines.scoring_request import ScoringRequest
from services.inference.engines.seams import Responder, Tensors, decoded_texts
from services.inference.engines.token_choice import TokenChooser
from services.inference.failures import InferenceFailure
from services.inference.sampling import SamplingParameters, parse_sampling_parameters

_logger = logging.getLogger(__name__)

_OUTPUT_BY_FLAG: Final = {
    contract.RETURN_FINISH_REASON: contract.FINISH_REASON,
    contract.RETURN_CUMULATIVE_LOGPROB: contract.CUMULATIVE_LOGPROB,
    contract.RETURN_NUM_INPUT_TOKENS: contract.NUM_INPUT_TOKENS,
    contract.RETURN_NUM_OUTPUT_TOKENS: contract.NUM_OUTPUT_TOKENS,
}


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What reading a request needs to know of a checkpoint.

    Attributes:
        tokenizer: the checkpoint's own.
        context_tokens: context window.
        vocabulary_size: rows of the embedding.
        end_token_ids: end-of-sequence tokens of the checkpoint.
    """

    tokenizer: Any
    context_tokens: int
    vocabulary_size: int
    end_token_ids: frozenset[int]


class RequestReader:
    """Reads the requests to one checkpoint, whatever engine computes them.

    Args:
        facts: the checkpoint.
    """

    def __init__(self, facts: TextFacts) -> None:
        self._facts = facts
        self._encoder = PromptEncoder(facts.tokenizer, facts.vocabulary_size)

    def read(self, tensors: Tensors, responder: Responder) -> GenerationRequest | ScoringRequest:
        """Read a request.

        Raises:
            InferenceFailure: the request cannot be answered; its reason says why.
        """
        prompt = self._read_prompt(tensors)
        if contract.CONTINUATIONS in tensors:
            texts = decoded_texts(tensors, contract.CONTINUATIONS)
            return self._scoring(prompt, texts, responder, may_truncate=_flag(tensors, contract.TRUNCATE_INPUT))
        return self._generation(prompt, tensors, responder)

    def _read_prompt(self, tensors: Tensors) -> RenderedPrompt:
        text, messages = _text(tensors, contract.TEXT_INPUT), _text(tensors, contract.MESSAGES)
        if messages is not None and text:
            raise InferenceFailure(
                "give either text_input or messages, not both", reason="PROMPT_AMBIGUOUS", field=contract.MESSAGES
            )
        if messages is not None:
            return self._encoder.render(messages)
        if text is None or (not text and contract.CONTINUATIONS not in tensors):
            raise InferenceFailure(
                "there is no prompt: text_input and messages are both empty",
                reason="PROMPT_EMPTY",
                field=contract.TEXT_INPUT,
            )
        return RenderedPrompt(text, is_rendered=False)

    def _scoring(
        self, context: RenderedPrompt, continuations: list[str], responder: Responder, *, may_truncate: bool
    ) -> ScoringRequest:
        if not continuations or not all(continuations):
            raise InferenceFailure(
                "continuations must be non-empty texts", reason="CONTINUATION_EMPTY", field=contract.CONTINUATIONS
            )
        encoded = self._encoder.encode_scoring(context, continuations)
        was_cancelled = CancelWatch(responder)
        window = self._facts.context_tokens
        return ScoringRequest(
            responder=responder,
            was_cancelled=was_cancelled,
            groups=group_by_context(encoded, window, may_truncate=may_truncate, was_cancelled=was_cancelled),
            num_context_tokens=len(encoded.context),
            num_truncated_tokens=max(0, len(encoded.context) + max(map(len, encoded.continuations)) - window - 1),
            continuation_lengths=[len(each) for each in encoded.continuations],
        )

    def _generation(self, prompt: RenderedPrompt, tensors: Tensors, responder: Responder) -> GenerationRequest:
        sampling = parse_sampling_parameters(_text(tensors, contract.SAMPLING_PARAMETERS) or "")
        is_streamed = _flag(tensors, contract.STREAM)
        returns_input = not _flag(tensors, contract.EXCLUDE_INPUT_IN_OUTPUT, default=is_streamed)
        if returns_input and is_streamed:
            raise InferenceFailure(
                "a streamed answer cannot begin with its input; set exclude_input_in_output",
                reason="INPUT_NOT_STREAMABLE",
                field=contract.EXCLUDE_INPUT_IN_OUTPUT,
            )
        ids = self._encoder.encode(prompt)
        kept = self._fitting(ids, sampling.max_tokens, may_truncate=_flag(tensors, contract.TRUNCATE_INPUT))
        return GenerationRequest(
            responder=responder,
            was_cancelled=CancelWatch(responder),
            prompt=kept,
            max_tokens=min(sampling.max_tokens, self._facts.context_tokens - len(kept)),
            chooser=TokenChooser.of(sampling, self._ending_token_ids(sampling)),
            answer=AnswerText(
                self._decoder(skip_special_tokens=sampling.skip_special_tokens),
                sampling.stop,
                include_stop=sampling.include_stop_str_in_output,
                is_watched=is_streamed,
            ),
            is_streamed=is_streamed,
            wanted_outputs=frozenset(output for flag, output in _OUTPUT_BY_FLAG.items() if _flag(tensors, flag)),
            input_text=prompt.text if returns_input else "",
            num_truncated_tokens=len(ids) - len(kept),
        )

    def _fitting(self, ids: tuple[int, ...], max_tokens: int, *, may_truncate: bool) -> tuple[int, ...]:
        """Return the prompt's newest tokens that leave room: for max_tokens if it may be cut, else for one token."""
        window = self._facts.context_tokens
        if may_truncate:
            return ids[-max(1, window - max_tokens) :]
        if len(ids) >= window:
            raise InferenceFailure(
                f"the prompt has {len(ids)} tokens, the model's context holds {window} with the answer; shorten the "
                "prompt or allow truncation",
                reason="PROMPT_TOO_LONG",
                code="FAILED_PRECONDITION",
                metadata={"prompt_tokens": str(len(ids)), "context_tokens": str(window)},
            )
        return ids

    def _ending_token_ids(self, sampling: SamplingParameters) -> frozenset[int]:
        known = frozenset(each for each in sampling.stop_token_ids if each < self._facts.vocabulary_size)
        return known if sampling.ignore_eos else known | self._facts.end_token_ids

    def _decoder(self, *, skip_special_tokens: bool) -> Callable[[Sequence[int]], str]:
        tokenizer: Any = self._facts.tokenizer

        def decode(ids: Sequence[int]) -> str:
            # Without clean-up, because text that is rewritten afterwards cannot be streamed.
            return str(
                tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
            )

        return decode


@contextmanager
def answering_failures(responder: Responder) -> Iterator[None]:
    """Answer a request that cannot be taken with its failure, whatever is raised: nobody else would answer it."""
    try:
        yield
    except InferenceFailure as failure:
        responder.fail(failure)
    except Exception:  # a tokenizer or a chat template raises whatever comes to its mind
        _logger.exception("request_not_read")
        responder.fail(
            InferenceFailure("the engine failed to read this request", reason="ENGINE_FAILED", code="INTERNAL")
        )


def _text(tensors: Tensors, name: str) -> str | None:
    values = decoded_texts(tensors, name) if name in tensors else []
    return values[0] if values else None


def _flag(tensors: Tensors, name: str, *, default: bool = False) -> bool:
    array = tensors.get(name)
    return default if array is None or array.size == 0 else bool(array.ravel()[0])
