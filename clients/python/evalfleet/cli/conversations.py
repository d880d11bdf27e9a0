"""Lines of JSON into conversations to judge, and verdicts into lines of JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from evalfleet.cli.json_output import error_fields
from evalfleet.conversation_rows import conversation_of
from evalfleet.errors import EvalFleetError, InvalidArgumentError
from evalfleet.results import Verdict
from evalfleet.verdicts import Conversation


@dataclass(frozen=True, slots=True)
class Line:
    """One line of input: the caller's id for it, and its conversation or what is wrong with it."""

    number: int
    item_id: object
    conversation: Conversation | EvalFleetError


def read_line(number: int, text: str) -> Line:
    """Read one line; what is wrong with it is told in its place.

    It is an object with ``text`` (and ``prompt``, if the text answers one), or with ``conversation`` or ``messages``: a
    list of objects with ``role`` and ``content``. An ``id`` is given back with the verdict.

    Args:
        number: of the line, from 1.
        text: the line.
    """
    item_id: object = None
    try:
        content = json.loads(text)
        if not isinstance(content, Mapping):
            raise ValueError('must be an object, e.g. {"text": "…"}')
        item_id = content.get("id")
        return Line(number, item_id, conversation_of(content))
    except (ValueError, RecursionError) as error:
        problem = InvalidArgumentError(f"line {number}: {error}", reason="LINE_INVALID")
        return Line(number, item_id, problem)


def write_line(line: Line, outcome: Verdict | EvalFleetError) -> str:
    """Write what became of a line; an error has no decision, so that nobody takes it for one."""
    result: dict[str, object] = {"line": line.number}
    if line.item_id is not None:
        result["id"] = line.item_id
    if isinstance(outcome, EvalFleetError):
        result["error"] = error_fields(outcome)
        return _dumped(result)
    result |= {
        "decision": outcome.decision.value,
        "unsafe_probability": outcome.unsafe_probability,
        "categories": [
            {
                "taxonomy": each.taxonomy,
                "code": each.code,
                "ailuminate_code": each.ailuminate_code,
                "probability": each.probability,
            }
            for each in outcome.categories
        ],
        "threshold": outcome.threshold,
        "guard": outcome.guard,
    }
    optional: dict[str, object] = {
        "policy": outcome.policy,
        "policy_digest": outcome.policy_digest,
        "error_reason": outcome.error_reason,
        "unmapped": outcome.unmapped,
        "truncated": outcome.truncated,
        "windows": outcome.windows if outcome.windows > 1 else 0,
        "cached": outcome.cached,
        "computed_tokens": outcome.computed_tokens,
        "engine_seconds": outcome.engine_seconds,
    }
    result |= {name: value for name, value in optional.items() if value}
    refusals = {"refusal": outcome.refusal, "over_refusal": outcome.over_refusal}
    return _dumped(result | {name: value for name, value in refusals.items() if value is not None})


def _dumped(result: dict[str, object]) -> str:
    text = json.dumps(result, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # An id of half a character, which only an escape can write.
        return json.dumps(result)
    return text
