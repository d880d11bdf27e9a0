"""Reads a task's YAML with the files that it includes. No code that it names is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evalfleet.errors import InvalidArgumentError

MOST_INCLUDES = 32


@dataclass(frozen=True, slots=True)
class FunctionReference:
    """A Python function that the file names in place of a value: ``utils.process_docs``."""

    name: str


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor(
    "!function",
    # Its stubs know nodes of any kind here; construct_scalar refuses those that are no scalars.
    lambda loader, node: FunctionReference(str(loader.construct_scalar(node))),  # type: ignore[arg-type]
)


def read(path: Path) -> dict[str, Any]:
    """Return the fields of a task file; its own win over those of the files that it includes.

    Raises:
        InvalidArgumentError: TASK_FILE_UNREADABLE: a file is missing, no YAML mapping, or includes itself.
    """
    return _read(path, depth=0)


def _read(path: Path, *, depth: int) -> dict[str, Any]:
    if depth > MOST_INCLUDES:
        raise _unreadable(path, "its files include each other without end")
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, Mapping):
        raise _unreadable(path, "it is no mapping of fields")
    fields = dict(found)
    included = fields.pop("include", [])
    merged: dict[str, Any] = {}
    for each in [included] if isinstance(included, str) else included:
        merged |= _read(path.parent / str(each), depth=depth + 1)
    return merged | fields


def _unreadable(path: Path, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{path} is no task file of lm-evaluation-harness: {problem}",
        reason="TASK_FILE_UNREADABLE",
        metadata={"file": str(path)},
    )
