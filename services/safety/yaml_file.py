"""Reads YAML files of the safety service; every problem names the file, the place and the nearest valid name."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from services.runtime.errors import nearest_names
from services.safety.errors import GuardFileError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml_mapping(file: Path) -> dict[str, Any]:
    """Return the mapping that a file holds.

    Raises:
        GuardFileError: the file cannot be read, is not YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise file_error(file, f"cannot be read ({error})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise file_error(file, f"{where}{error.problem or 'is not YAML'}") from error
    # A recursive alias, a number of thousands of digits, nesting without end.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise file_error(file, f"is not YAML ({error})") from error
    if not isinstance(content, dict):
        raise file_error(file, "must hold a mapping of fields")
    return content


def validated(file: Path, model: type[Model], content: object, *, within: str = "") -> Model:
    """Return ``content`` as a model.

    Args:
        file: where it comes from.
        model: what it should be.
        content: as YAML gave it.
        within: path of the content in the file: ``guards[2]``.

    Raises:
        GuardFileError: names the field and, for an unknown one, the nearest that exists.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_explain(each, model, within) for each in error.errors()]
        raise file_error(file, "; ".join(problems)) from error


def hint(name: str, candidates: tuple[str, ...]) -> str:
    """Return what to say of an unknown name: the nearest valid one, or those that there are."""
    near = nearest_names(name, candidates)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(candidates[:20])}"


def file_error(file: Path, problem: str) -> GuardFileError:
    """Build the error for a problem of a file."""
    return GuardFileError(f"{file}: {problem}", metadata={"path": str(file)})


def _explain(problem: Any, model: type[BaseModel], within: str) -> str:
    field = ".".join([*([within] if within else []), *map(str, problem["loc"])])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        advice = f", {hint(str(problem['loc'][-1]), known)}" if known else ""
        return f"{field}: is no field{advice}"
    return f"{field}: {problem['msg']}" if field else str(problem["msg"])


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the fields of the model at the top, or of a list's entries one level down; () where that is not known."""
    if not location:
        return tuple(model.model_fields)
    field = model.model_fields.get(str(location[0]))
    for argument in getattr(field.annotation, "__args__", ()) if field else ():
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return tuple(argument.model_fields)
    return ()
