"""Texts and conversations to token ids, with lm-evaluation-harness's split of context and continuation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.inference.failures import InferenceFailure

# Names that transformers takes as arguments of the rendering itself, or that we set.
_RENDERING_ARGUMENTS: Final = frozenset(
    {
        "self", "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message",
        "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
        "return_assistant_tokens_mask", "tokenizer_kwargs",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt as text.

    Attributes:
        text: what the model reads.
        is_rendered: it came out of a chat template, which writes special tokens itself.
    """

    text: str
    is_rendered: bool


@dataclass(frozen=True, slots=True)
class EncodedScoring:
    """Token ids of a context and of every continuation behind it.

    Attributes:
        context: at least one; the prefix token of a text that follows nothing.
        continuations: none empty.
        follows_nothing: the context was empty, so the continuations are whole texts.
    """

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    follows_nothing: bool = False


class PromptEncoder:
    """Encodes prompts with a checkpoint's own tokenizer and chat template.

    Args:
        tokenizer: a transformers tokenizer.
        vocabulary_size: rows of the model's embedding; ids beyond it are refused.
    """

    def __init__(self, tokenizer: Any, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_token_id: int | None = bos if bos is not None else eos
        self._prefix_text = "" if self._prefix_token_id is None else str(tokenizer.decode([self._prefix_token_id]))

    def render(self, messages_json: str) -> RenderedPrompt:
        """Render a conversation by the checkpoint's chat template.

        The model's turn is opened at the end; if the last message is the assistant's, that turn is continued. A
        conversation that is only material (``TemplatePrompt``) is followed by a turn of the model in any case.

        Raises:
            InferenceFailure: MESSAGES_INVALID, CHAT_TEMPLATE_MISSING or CHAT_TEMPLATE_REJECTED.
        """
        told = _read_messages(messages_json)
        if self._tokenizer.chat_template is None:
            raise InferenceFailure(
                "the checkpoint has no chat template, so it cannot take a conversation; send a text prompt",
                reason="CHAT_TEMPLATE_MISSING",
                code="FAILED_PRECONDITION",
                field="messages",
            )
        try:
            text = self._tokenizer.apply_chat_template(
                told.messages,
                tokenize=False,
                add_generation_prompt=not told.continues,
                continue_final_message=told.continues,
                **told.variables,
            )
        except Exception as error:  # a template is a program: it divides by zero, recurses, takes all memory
            raise InferenceFailure(
                f"the checkpoint's chat template rejects this conversation: {error}",
                reason="CHAT_TEMPLATE_REJECTED",
                metadata={"roles": ",".join(message["role"] for message in told.messages)},
                field="messages",
            ) from error
        return RenderedPrompt(str(text), is_rendered=True)

    def encode(self, prompt: RenderedPrompt) -> tuple[int, ...]:
        """Encode a prompt to generate from.

        Raises:
            InferenceFailure: PROMPT_EMPTY or TOKEN_OUT_OF_VOCABULARY.
        """
        ids = self._encode(prompt.text, is_rendered=prompt.is_rendered)
        if not ids:
            raise InferenceFailure("the prompt has no tokens", reason="PROMPT_EMPTY", field="text_input")
        return self._checked(ids)

    def encode_scoring(self, context: RenderedPrompt, continuations: Sequence[str]) -> EncodedScoring:
        """Split context and continuations into tokens as lm-evaluation-harness does for causal models.

        White space at the end of the context moves to the continuation; both are encoded together and cut after as
        many tokens as the context has alone. An empty context is the BOS token, or EOS where there is none.

        Raises:
            InferenceFailure: CONTINUATION_EMPTY, PROMPT_EMPTY or TOKEN_OUT_OF_VOCABULARY.
        """
        if not context.text:
            return self._encode_after_nothing(continuations)
        stripped = context.text.rstrip()
        moved = context.text[len(stripped) :]
        context_ids = self._encode(stripped, is_rendered=context.is_rendered)
        if not context_ids:
            raise InferenceFailure(
                "the context is only white space; send an empty context instead", reason="PROMPT_EMPTY"
            )
        encoded: list[tuple[int, ...]] = []
        for index, continuation in enumerate(continuations):
            whole = self._encode(stripped + moved + continuation, is_rendered=context.is_rendered)
            encoded.append(self._nonempty(whole[len(context_ids) :], index))
        return EncodedScoring(self._checked(context_ids), tuple(encoded))

    def _encode_after_nothing(self, continuations: Sequence[str]) -> EncodedScoring:
        if self._prefix_token_id is None:
            raise InferenceFailure(
                "the tokenizer has neither BOS nor EOS to stand for an empty context",
                reason="PROMPT_EMPTY",
                code="FAILED_PRECONDITION",
            )
        encoded: list[tuple[int, ...]] = []
        for index, continuation in enumerate(continuations):
            ids = self._plain(continuation)
            # A continuation that brings the prefix token itself is not given a second one.
            encoded.append(self._nonempty(ids[1:] if ids[:1] == (self._prefix_token_id,) else ids, index))
        return EncodedScoring(self._checked((self._prefix_token_id,)), tuple(encoded), follows_nothing=True)

    def _encode(self, text: str, *, is_rendered: bool) -> tuple[int, ...]:
        # A text that begins with the BOS text must not get a second one.
        if is_rendered or (self._prefix_text and text.startswith(self._prefix_text)):
            return self._plain(text)
        return tuple(self._tokenizer.encode(text))

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _nonempty(self, ids: tuple[int, ...], index: int) -> tuple[int, ...]:
        if not ids:
            raise InferenceFailure(
                f"continuation {index} adds no token of its own behind the context",
                reason="CONTINUATION_EMPTY",
                metadata={"index": str(index)},
                field=f"continuations[{index}]",
            )
        return self._checked(ids)

    def _checked(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        largest = max(ids)
        if largest >= self._vocabulary_size:
            raise InferenceFailure(
                f"the tokenizer makes token {largest}, but the model knows only {self._vocabulary_size} tokens; "
                "tokenizer and weights do not belong together",
                reason="TOKEN_OUT_OF_VOCABULARY",
                code="FAILED_PRECONDITION",
                metadata={"token_id": str(largest), "vocabulary_size": str(self._vocabulary_size)},
            )
        return ids


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What a chat template is given, and whether the last message is to be continued."""

    messages: list[dict[str, Any]]
    continues: bool
    variables: dict[str, Any]


def _read_messages(messages_json: str) -> _Conversation:
    try:
        body = json.loads(messages_json)
    except (ValueError, RecursionError) as error:  # also of integers with thousands of digits
        raise _invalid_messages(f"not JSON: {error}") from error
    if not isinstance(body, dict):
        messages = _checked_messages(body)
        return _Conversation(messages, continues=messages[-1]["role"] == "assistant", variables={})
    variables, as_parts = body.get("variables"), body.get("as_parts")
    if set(body) != {"messages", "variables", "as_parts"} or not isinstance(as_parts, bool):
        raise _invalid_messages('an object must be {"messages": …, "variables": …, "as_parts": …}')
    if not isinstance(variables, dict) or not _RENDERING_ARGUMENTS.isdisjoint(variables):
        raise _invalid_messages("variables must be an object with names that mean nothing to the renderer")
    messages = _checked_messages(body["messages"])
    if as_parts:
        messages = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
    return _Conversation(messages, continues=False, variables=variables)


def _checked_messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise _invalid_messages("must be a non-empty list")
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise _invalid_messages('every message must be {"role": …, "content": …}')
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise _invalid_messages("role and content must be texts")
    return messages


def _invalid_messages(problem: str) -> InferenceFailure:
    return InferenceFailure(f"messages: {problem}", reason="MESSAGES_INVALID", field="messages")
