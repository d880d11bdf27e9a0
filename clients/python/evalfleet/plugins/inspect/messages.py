"""Between Inspect's messages and options and those of the fleet; what the fleet does not have is refused by name."""

import json
from collections.abc import Sequence

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    StopReason,
)

from evalfleet.answers import Answer, Role, Sampling
from evalfleet.errors import InvalidArgumentError

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_STOP_REASONS: dict[str, StopReason] = {"stop": "stop", "length": "max_tokens"}
# Options that would change the answer. Those that only say how Inspect asks, or that say nothing to a model that
# neither reasons nor calls tools, are not here.
_NOT_OFFERED = (
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "response_schema",
    "extra_body",
    "modalities",
)


def turns(messages: Sequence[ChatMessage]) -> list[tuple[Role, str]]:
    """Return (role, text) of each message.

    Raises:
        InvalidArgumentError: CONTENT_NOT_OFFERED: one is no text, or the answer of a tool.
    """
    return [(_role(each), _text(each)) for each in messages]


def read_turns(messages: Sequence[ChatMessage]) -> list[tuple[Role, str]]:
    """Return (role, text) of each message for those who judge it, and need not answer it.

    Reasoning is left out: it is not what was answered. What an assistant asked of a tool is a part of its turn, and
    what the tool answered is a turn of the user's.

    Raises:
        InvalidArgumentError: CONTENT_NOT_OFFERED: one holds what is no text.
    """
    return [_read_turn(each) for each in messages]


def sampling(config: GenerateConfig) -> Sampling:
    """Translate how text is generated.

    Raises:
        InvalidArgumentError: OPTION_NOT_OFFERED: it has an option that the fleet has not.
    """
    asked = [name for name in _NOT_OFFERED if getattr(config, name)]
    if asked:
        raise InvalidArgumentError(
            f"models of the fleet have no {asked[0]}; leave the option away",
            reason="OPTION_NOT_OFFERED",
            metadata={"option": asked[0]},
        )
    return Sampling(
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        stop=tuple(config.stop_seqs or ()),
        seed=config.seed,
    )


def output(answer: Answer, model: str) -> ModelOutput:
    """Translate an answer; whether it was cached, and by which weights, is in its metadata."""
    choices = [
        ChatCompletionChoice(
            message=ChatMessageAssistant(content=text, model=model, source="generate"),
            stop_reason=_STOP_REASONS.get(reason, "unknown"),
        )
        for text, reason in zip(answer.texts, answer.finish_reasons, strict=True)
    ]
    return ModelOutput(
        model=model,
        choices=choices,
        usage=ModelUsage(
            input_tokens=answer.prompt_tokens,
            output_tokens=answer.completion_tokens,
            total_tokens=answer.prompt_tokens + answer.completion_tokens,
        ),
        input_context_tokens=answer.prompt_tokens,
        metadata={"model_digest": answer.model_digest, "is_cached": answer.is_cached},
    )


def _role(message: ChatMessage) -> Role:
    if message.role not in _ROLES:
        raise InvalidArgumentError(
            f"models of the fleet take no message of a {message.role}; they do not call tools",
            reason="CONTENT_NOT_OFFERED",
            metadata={"role": message.role},
        )
    return _ROLES[message.role]


def _read_turn(message: ChatMessage) -> tuple[Role, str]:
    text = _text(message, left_out=(ContentReasoning,))
    if isinstance(message, ChatMessageTool):
        said = text or (message.error.message if message.error else "")
        return "user", f"[The tool {message.function or ''} answered]\n{said}"
    calls = (message.tool_calls or []) if isinstance(message, ChatMessageAssistant) else []
    asked = [
        f"[Calls the tool {each.function}] {json.dumps(each.arguments, ensure_ascii=False, default=str)}"
        for each in calls
    ]
    return _role(message), "\n".join([*([text] if text or not asked else []), *asked])


def _text(message: ChatMessage, left_out: tuple[type, ...] = ()) -> str:
    if isinstance(message.content, str):
        return message.content
    foreign = [each.type for each in message.content if not isinstance(each, (ContentText, *left_out))]
    if foreign:
        raise InvalidArgumentError(
            f"models and guards of the fleet read text, no {foreign[0]}",
            reason="CONTENT_NOT_OFFERED",
            metadata={"content": foreign[0]},
        )
    return message.text
