"""What a scorer is told of an item beside its answers: values that protobuf's Struct carries unchanged."""

from collections.abc import Iterable, Mapping
from typing import Any

from services.evaluation.errors import RenderingError
from services.evaluation.rendering import Expression

MAX_DEPTH = 16
"""Protobuf refuses messages 100 deep, and each level of a Struct is three."""
MAX_BYTES = 1_000_000
_LARGEST_WHOLE_NUMBER = 2**53


def details_of(expressions: Iterable[tuple[str, Expression]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate one scorer's details over a row.

    Raises:
        RenderingError: an expression fails on the row, or its value cannot be sent: it is nested too deeply, too large,
            no valid Unicode, or has a whole number that a Struct would round.
    """
    details = {}
    for name, expression in expressions:
        details[name] = expression.value(values)
        if _bytes_of(name, details[name], depth=0) > MAX_BYTES:
            raise RenderingError(f"detail {name!r} is larger than {MAX_BYTES} bytes")
    return details


def _bytes_of(name: str, value: Any, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise RenderingError(f"detail {name!r} is nested more than {MAX_DEPTH} deep")
    match value:
        case str():
            try:
                return len(value.encode("utf-8"))
            except UnicodeEncodeError as error:
                raise RenderingError(f"detail {name!r} is no valid Unicode") from error
        case bool():
            return 1
        case int() if abs(value) > _LARGEST_WHOLE_NUMBER:
            raise RenderingError(
                f"detail {name!r} has a whole number beyond 2^53, which would be rounded; make it text"
            )
        case list():
            return 1 + sum(_bytes_of(name, each, depth + 1) for each in value)
        case dict():
            keys = sum(_bytes_of(name, key, depth + 1) for key in value)
            return 1 + keys + sum(_bytes_of(name, each, depth + 1) for each in value.values())
        case _:
            return 1
