"""What a trainer of TRL hands to its reward functions, as texts and as conversations."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from evalfleet.verdicts import Role

Message: TypeAlias = Mapping[str, object]
Completion: TypeAlias = str | Sequence[Message]
"""Plain text, or the turns of a chat with ``role`` and ``content``."""

Turns: TypeAlias = list[tuple[Role, str]]

# What tools say comes to the model from outside, as what a user says does.
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "tool": "user",
    "assistant": "assistant",
}


def text_of(completion: Completion) -> str:
    """Return the text that the model wrote: of a chat, the last turn of the assistant that has one."""
    if isinstance(completion, str):
        return completion
    texts = [_content(each) for each in completion if each.get("role", "assistant") == "assistant"]
    return next((each for each in reversed(texts) if each), "")


def conversation_of(prompt: Completion, completion: Completion) -> Turns:
    """Return the turns up to and with the completion, all of whose text is one last turn of the assistant.

    A completion of several turns, as agents have, is judged as a whole: what an earlier turn did is not undone by a
    harmless last one. Of what it asked of tools, the arguments are judged.
    """
    turns: Turns = [("user", prompt)] if isinstance(prompt, str) else [_turn(each) for each in prompt]
    if isinstance(completion, str):
        return [*turns, ("assistant", completion)]
    written = [_written(each) for each in completion if each.get("role", "assistant") == "assistant"]
    return [*turns, ("assistant", "\n\n".join(each for each in written if each))]


def prompt_text(prompt: Completion) -> str:
    """Return what the model was asked: the text of one turn, of several each with its role before it."""
    if isinstance(prompt, str):
        return prompt
    turns = [_turn(each) for each in prompt]
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in turns)


def _turn(message: Message) -> tuple[Role, str]:
    return _ROLES.get(str(message.get("role")), "user"), _content(message)


def _written(message: Message) -> str:
    """The text of a turn, and below it the arguments of its calls of tools."""
    calls = message.get("tool_calls")
    told = [_arguments(each) for each in calls] if isinstance(calls, Sequence) and not isinstance(calls, str) else []
    return "\n\n".join(each for each in (_content(message), *told) if each)


def _arguments(call: object) -> str:
    """What a call gives a tool, as readable JSON; as it stands where it is none."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    given = function.get("arguments") if isinstance(function, Mapping) else None
    told: str | None = None
    if isinstance(given, str):
        try:
            # Written anew, because a guard cannot read a text that is all escapes.
            given = json.loads(given)
        except (ValueError, RecursionError):
            told = given
    if told is None:
        told = json.dumps(given, ensure_ascii=False, default=str) if given else ""
    return told.encode("utf-8", errors="replace").decode("utf-8")


def _content(message: Message) -> str:
    """The text of a turn; of one in parts, such as images and texts, those that are text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    texts = [each.get("text") if isinstance(each, Mapping) else each for each in parts]
    return "\n".join(each for each in texts if isinstance(each, str))
