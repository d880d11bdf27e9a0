"""Between Inspect's messages and options and those of the fleet; what the fleet does not have is refused by name."""

from collections.abc import Sequence

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
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


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    foreign = [each.type for each in message.content if not isinstance(each, ContentText)]
    if foreign:
        raise InvalidArgumentError(
            f"models of the fleet read text, no {foreign[0]}",
            reason="CONTENT_NOT_OFFERED",
            metadata={"content": foreign[0]},
        )
    return message.text
