"""JSON in generated text, bounded in depth."""

import json
import re
from typing import Final, NoReturn

from pydantic import JsonValue

from services.runtime.errors import FieldViolation
from services.scoring.errors import TextTooDeepError

MAX_DEPTH: Final = 100
_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


class NoJsonError(ValueError):
    """The text is no JSON document."""


def fenced_text(text: str) -> str:
    """Return what the first fenced block of Markdown holds; the text itself if it has none."""
    found = _FENCED.search(text)
    return found[1] if found else text


def parse_json(text: str) -> JsonValue:
    """Return the document that ``text`` is; white space around it is ignored.

    Unlike Python's ``json``, NaN and infinities are no JSON, and neither are integers of more than 4,300 digits, which
    Python does not read.

    Raises:
        NoJsonError: it is none.
        TextTooDeepError: its arrays and objects are nested more than 100 deep.
    """
    if _depth(text) > MAX_DEPTH:
        raise TextTooDeepError(
            f"the text's JSON is nested more than {MAX_DEPTH} deep",
            metadata={"limit_depth": str(MAX_DEPTH)},
            field_violations=(FieldViolation("text", f"is nested more than {MAX_DEPTH} deep"),),
        )
    try:
        document: JsonValue = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise NoJsonError(str(error)) from None
    return document


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def _depth(text: str) -> int:
    """Return how deeply brackets outside of strings are nested, whether they match or not."""
    deepest = depth = 0
    for found in _BRACKETS.finditer(text):
        match found[0]:
            case "[" | "{":
                depth += 1
                deepest = max(deepest, depth)
            case "]" | "}":
                depth -= 1
    return deepest


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
