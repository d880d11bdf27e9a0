"""Check the parameters that a caller sends, and describe those that a scorer takes."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.runtime.errors import FieldViolation, nearest_names
from services.scoring.contract import ParametersT, ScorerParameters
from services.scoring.errors import InvalidScoreRequestError

ParameterValue = str | float | bool | list[str] | None

_TYPE_NAMES: dict[object, str] = {str: "string", bool: "boolean", int: "number", float: "number"}


@dataclass(frozen=True, slots=True)
class ParameterDescription:
    """A parameter: its name, its type in words, what it does, and its value when absent."""

    name: str
    type: str
    description: str
    is_required: bool
    default: ParameterValue


def parse_parameters(scorer: str, model: type[ParametersT], given: Mapping[str, object]) -> ParametersT:
    """Complete and check parameters; a value of ``None`` counts as absent.

    Raises:
        InvalidScoreRequestError: names every wrong parameter, and the nearest valid name of an unknown one.
    """
    # JSON has one kind of number and one kind of sequence; the models are strict about both.
    known = {name: _as_python(value) for name, value in given.items() if value is not None}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        violations = [_violation(model, each) for each in error.errors(include_url=False, include_context=False)]
        raise InvalidScoreRequestError(scorer, *violations) from None


def describe_parameters(model: type[ScorerParameters]) -> Iterator[ParameterDescription]:
    """Yield a scorer's parameters in the order of their definition."""
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default()
        yield ParameterDescription(
            name=name,
            type=type_name(field.annotation),
            description=field.description or "",
            is_required=field.is_required(),
            default=list(default) if isinstance(default, tuple) else default,
        )


def type_name(annotation: object) -> str:
    """Return what the contract calls a field's type: string, number, boolean or list of string."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin is Literal:
        return "string"
    if origin in (Union, types.UnionType):
        return type_name(next(each for each in get_args(annotation) if each is not type(None)))
    if origin is tuple:
        return f"list of {type_name(get_args(annotation)[0])}"
    return _TYPE_NAMES[annotation]


def _as_python(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def _violation(model: type[ScorerParameters], error: ErrorDetails) -> FieldViolation:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return FieldViolation(
            f"parameters.{path}" if path else "parameters", error["msg"].removeprefix("Value error, ")
        )
    near = nearest_names(path, model.model_fields)
    known = ", ".join(model.model_fields) or "none"
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {known}"
    return FieldViolation(f"parameters.{path}", f"unknown parameter; {hint}")
