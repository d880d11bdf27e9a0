"""JSON answers of guards, read without guessing."""

import json
import re
from typing import Any, Final

from services.safety.formats.guard_format import unreadable

_FENCE: Final = re.compile(r"\s*```(?:json)?\s*\n(?P<body>.*)\n\s*```\s*", re.DOTALL)


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text is, in a code fence or not.

    Raises:
        UnusableAnswerError: it is something else, says a key twice, or holds a constant that JSON does not have.
    """
    fenced = _FENCE.fullmatch(text)
    try:
        content = json.loads(
            fenced["body"] if fenced else text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise unreadable() from error
    if not isinstance(content, dict):
        raise unreadable()
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
