"""Check the parameters that a caller sends, and describe the parameters and details that a scorer takes."""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from services.runtime.errors import FieldViolation, nearest_names
from services.scoring.contract import ParametersT
from services.scoring.errors import InvalidScoreRequestError

_TYPE_NAMES: dict[object, str] = {str: "string", bool: "boolean", int: "number", float: "number", JsonValue: "any"}


@dataclass(frozen=True, slots=True)
class FieldDescription:
    """A parameter or a detail: its name, its type in words, what it does, and its value when absent."""

    name: str
    type: str
    description: str
    is_required: bool
    default: JsonValue


def parse_parameters(scorer: str, model: type[ParametersT], given: Mapping[str, object]) -> ParametersT:
    """Complete and check parameters; a value of ``None`` counts as absent.

    Raises:
        InvalidScoreRequestError: names every wrong parameter, and the nearest valid name of an unknown one.
    """
    # JSON has one kind of number; the models are strict about it.
    known = {name: _as_python(value) for name, value in given.items() if value is not None}
    try:
        # By way of JSON, whose lists strict models take for tuples at every depth.
        return model.model_validate_json(json.dumps(known))
    except ValidationError as error:
        raise InvalidScoreRequestError(scorer, *violations_of(error, model, "parameters")) from None


def describe_fields(model: type[BaseModel]) -> Iterator[FieldDescription]:
    """Yield a scorer's parameters or details in the order of their definition."""
    for name, field in model.model_fields.items():
        yield FieldDescription(
            name=name,
            type=type_name(field.annotation),
            description=field.description or "",
            is_required=field.is_required(),
            default=None if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True)),
        )


def type_name(annotation: object) -> str:
    """Return what the contract calls a field's type: string, number, boolean, object, any, or a list of one of them."""
    if annotation is JsonValue:
        return "any"
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin is Literal:
        return "string"
    if origin in (Union, types.UnionType):
        return type_name(next(each for each in get_args(annotation) if each is not type(None)))
    if origin is tuple:
        return f"list of {type_name(get_args(annotation)[0])}"
    if origin in (dict, Mapping) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "object"
    return _TYPE_NAMES[annotation]


def _as_python(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_as_python(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _as_python(each) for name, each in value.items()}
    return value


def violations_of(error: ValidationError, model: type[BaseModel], field: str) -> list[FieldViolation]:
    """Return every violation under the request's ``field``, with the nearest valid name of an unknown one."""
    return [_violation(model, field, each) for each in error.errors(include_url=False, include_context=False)]


def _violation(model: type[BaseModel], field: str, error: ErrorDetails) -> FieldViolation:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return FieldViolation(f"{field}.{path}" if path else field, error["msg"].removeprefix("Value error, "))
    if len(error["loc"]) > 1:
        return FieldViolation(f"{field}.{path}", "unknown field")
    near = nearest_names(path, model.model_fields)
    known = ", ".join(model.model_fields) or "none"
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {known}"
    return FieldViolation(f"{field}.{path}", f"unknown {field.removesuffix('s')}; {hint}")
