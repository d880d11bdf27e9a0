"""Rows of files into conversations: what a line of JSON or a row of a table holds of a text to judge or to answer."""

from collections.abc import Mapping
from typing import Any, cast, get_args

from evalfleet.verdicts import Conversation, Role

_ROLES = get_args(Role)


def conversation_of(content: Mapping[str, Any]) -> Conversation:
    """Return the conversation that a row holds.

    It has ``text`` (and ``prompt``, if the text answers one), or ``conversation`` or ``messages``: a list of objects
    with ``role`` and ``content``. What is null counts as absent.

    Raises:
        ValueError: it has none of these, or something else in their place.
    """
    turns = content.get("conversation")
    if turns is None:
        turns = content.get("messages")
    if turns is None:
        if content.get("text") is None:
            raise ValueError("needs text, conversation or messages")
        text, prompt = _text(content, "text"), content.get("prompt")
        return [("user", text)] if prompt is None else [("user", _text(content, "prompt")), ("assistant", text)]
    return turns_of(turns)


def turns_of(turns: object) -> Conversation:
    """Return a conversation from its list of objects with ``role`` and ``content``.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(turns, list) or not all(isinstance(each, Mapping) for each in turns):
        raise ValueError("conversation must be a list of objects with role and content")
    return [(_role(each.get("role")), _text(each, "content")) for each in turns]


def _role(role: object) -> Role:
    if role not in _ROLES:
        raise ValueError(f"role must be one of {', '.join(_ROLES)}, not {role!r}")
    return cast("Role", role)


def _text(content: Mapping[str, Any], field: str) -> str:
    text = content.get(field)
    if not isinstance(text, str):
        raise ValueError(f"{field} must be a string")
    return text
