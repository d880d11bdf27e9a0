"""Conversations as texts, which the harness carries around; the checkpoint's template renders them in the fleet."""

import json
from collections.abc import Mapping, Sequence

from evalfleet.common.v1 import common_pb2
from evalfleet.errors import InvalidArgumentError

# No text of a task begins like this, and whoever reads a log sees what it is.
_MARK = "\x02evalfleet chat\x03"
_ROLES = {"system": common_pb2.ROLE_SYSTEM, "user": common_pb2.ROLE_USER, "assistant": common_pb2.ROLE_ASSISTANT}


def written(turns: Sequence[Mapping[str, str]]) -> str:
    """Write the turns of a conversation, which have a role and a content, as a text that ``conversation`` reads."""
    return _MARK + json.dumps([{"role": each["role"], "content": each["content"]} for each in turns])


def conversation(context: str) -> common_pb2.Conversation | None:
    """Read a conversation back; ``None`` if the context is an ordinary text.

    Raises:
        InvalidArgumentError: CHAT_NOT_READABLE: something was put behind it, or a turn has a role that there is not.
    """
    if not context.startswith(_MARK):
        return None
    try:
        turns = json.loads(context.removeprefix(_MARK))
        messages = [common_pb2.Message(role=_ROLES[each["role"]], content=each["content"]) for each in turns]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError(
            f"a conversation cannot be read back ({error}): its roles are {', '.join(_ROLES)}, and nothing may be "
            "added behind it",
            reason="CHAT_NOT_READABLE",
        ) from None
    return common_pb2.Conversation(messages=messages)
