"""Reads YAML files so that every complaint names file, line, field and, for a misspelt field, the nearest valid one."""

import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from services.evaluation.errors import SpecificationError, SpecificationProblem
from services.runtime.names import nearest_names

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 50

FieldPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed YAML file: plain values, and the line (from 1) of every field."""

    file: str
    value: Any
    lines: Mapping[FieldPath, int]

    def line_of(self, path: FieldPath) -> int:
        """The line of ``path``, or of the nearest thing around it that the file has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: FieldPath, description: str) -> SpecificationProblem:
        """A problem of the field at ``path``."""
        return SpecificationProblem(self.file, self.line_of(path), _spell(path), description)


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core types only: ``no`` and ``2024-01-01`` stay text, as whoever writes an answer expects."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?$|^[-+]?[0-9]+[eE][-+]?[0-9]+$", "-+.0123456789"),
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))

_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": {"true": True, "false": False}.__getitem__,
    "null": lambda _: None,
}


def parse_document(text: str | bytes, file: str) -> Document:
    """Parse one YAML document.

    Args:
        text: the file's content; bytes must be UTF-8.
        file: its name, as complaints shall show it.

    Raises:
        SpecificationError: no UTF-8, no YAML, not a mapping, a field given twice, too large or too deeply nested.
    """
    if len(text) > MAX_FILE_BYTES:
        raise _error(file, 1, f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        root = yaml.compose(decoded, Loader=_CoreLoader)
    except UnicodeDecodeError as error:
        raise _error(file, 1, f"the file is not UTF-8 (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _error(file, mark.line + 1 if mark else 1, f"no valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _error(file, 1, f"no valid YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise _error(file, 1, "the file must hold `field: value` lines")
    builder = _Builder(file)
    return Document(file, builder.build(root, ()), builder.lines)


def read_document(path: Path) -> Document:
    """Parse the YAML file at ``path``; see ``parse_document``."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _error(str(path), 1, f"cannot be read: {error.strerror or error}") from error
    return parse_document(content, str(path))


def validate(model: type[Model], document: Document) -> Model:
    """Build ``model`` from ``document``.

    Raises:
        SpecificationError: with one problem for every field that does not fit.
    """
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        problems = [_problem(model, document, each) for each in error.errors(include_url=False)]
        raise SpecificationError(sorted(problems, key=lambda problem: problem.line)) from error


class _Builder:
    """Turns a YAML node tree into plain values, noting lines and refusing what a reader would not expect."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._count = 0
        self.lines: dict[FieldPath, int] = {}

    def build(self, node: yaml.Node, path: FieldPath) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._count += 1
        if self._count > MAX_NODES or len(path) > MAX_DEPTH:
            raise _error(self._file, line, "the file has too many or too deeply nested values", path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        name = node.tag.removeprefix("tag:yaml.org,2002:")
        if name not in _SCALARS:
            raise _error(self._file, node.start_mark.line + 1, f"the type {node.tag!r} is not allowed here", path)
        try:
            return _SCALARS[name](node.value)
        except (ValueError, LookupError) as error:
            raise _error(self._file, node.start_mark.line + 1, f"is no {name}: {node.value!r}", path) from error

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _error(self._file, line, "a field's name must be text", path)
            key = key_node.value
            if key in result:
                raise _error(self._file, line, f"{key!r} is given twice", (*path, key))
            self.lines[*path, key] = line
            result[key] = self.build(value_node, (*path, key))
        return result


def _error(file: str, line: int, description: str, path: FieldPath = ()) -> SpecificationError:
    return SpecificationError([SpecificationProblem(file, line, _spell(path), description)])


def _spell(path: FieldPath) -> str:
    """``("sources", 0, "files")`` as ``sources[0].files``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _problem(model: type[BaseModel], document: Document, error: Any) -> SpecificationProblem:
    """Restate one pydantic error; a misspelt field gets the nearest valid name."""
    path: FieldPath = tuple(part for part in error["loc"] if part != "[key]")
    kind, message = error["type"], error["msg"]
    if kind == "extra_forbidden":
        names = _field_names(model, path[:-1])
        near = nearest_names(str(path[-1]), names)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        return document.problem(path, f"unknown field; {hint}")
    if kind == "missing":
        return document.problem(path, "is missing")
    if kind == "enum":
        return document.problem(path, f"{error['input']!r} is not {error['ctx']['expected']}{_nearest_value(error)}")
    shown = repr(error["input"])
    if len(shown) > 80 or isinstance(error["input"], dict):
        return document.problem(path, message.removeprefix("Value error, "))
    return document.problem(path, f"{message.removeprefix('Value error, ')} (it is {shown})")


def _nearest_value(error: Any) -> str:
    expected = [word.strip(" '") for word in str(error["ctx"]["expected"]).replace(" or ", ",").split(",")]
    near = nearest_names(str(error["input"]), expected)
    return f"; did you mean {near[0]!r}?" if near else ""


def _field_names(model: type[BaseModel], path: FieldPath) -> list[str]:
    """The fields of the model that ``path`` leads to from ``model``; none if it does not lead to a model."""
    annotation: Any = model
    for part in path:
        annotation = _step(annotation, part)
    found = _model_in(annotation)
    return [] if found is None else [field.alias or name for name, field in found.model_fields.items()]


def _step(annotation: Any, part: str | int) -> Any:
    model = _model_in(annotation)
    if model is not None and isinstance(part, str):
        by_name = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        return by_name.get(part)
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model inside an annotation such as ``tuple[Source, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, tuple, list, dict):
        return next((model for each in get_args(annotation) if (model := _model_in(each)) is not None), None)
    return None
