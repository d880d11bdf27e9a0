"""Reads policies from YAML files."""

from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.runtime.errors import nearest_names
from services.safety.errors import PolicyFileError
from services.safety.judgement import Aspect
from services.safety.policies.policy import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    PolicyFieldError,
    PolicyHazard,
)

POLICY_COLLECTION: Final = "policies"
BUILTIN_FOLDER: Final = Path(__file__).with_name("builtin")
_NAME: Final = r"^[a-z0-9][a-z0-9.-]{0,62}$"


class _HazardEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float | None = None


class _PolicyEntry(BaseModel):
    """The content of a policy's file; docs/api/safety.md describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME)
    version: str = Field(min_length=1)
    description: str = Field(min_length=1)
    aspects: tuple[Literal["prompt", "response"], ...] = Field(("prompt", "response"), min_length=1)
    guards: tuple[str, ...] = ()
    combination: Literal["any-unsafe", "majority"] = "any-unsafe"
    threshold: float | None = None
    hazards: dict[str, _HazardEntry | None] = {}
    on_error: Literal["error", "unsafe"] = "error"
    on_controversial: Literal["keep", "unsafe", "safe"] = "keep"


def read_policies(folder: Path) -> dict[str, tuple[Path, Policy]]:
    """Return the policies of a folder's ``*.yaml`` files, by resource name, with the file of each.

    Raises:
        PolicyFileError: with file, line or field, and the nearest valid name.
    """
    if not folder.is_dir():
        raise _bad_file(folder, "is no folder; EVALFLEET_POLICY_DIRS names folders with *.yaml files")
    found: dict[str, tuple[Path, Policy]] = {}
    for file in sorted(folder.glob("*.yaml")):
        policy = read_policy(file)
        if policy.name in found:
            raise _bad_file(file, f"name: {found[policy.name][0]} has a policy of this name, too")
        found[policy.name] = file, policy
    return found


def read_policy(file: Path) -> Policy:
    """Read one policy.

    Raises:
        PolicyFileError: with file, line or field, and the nearest valid name.
    """
    try:
        entry = _PolicyEntry.model_validate(_read_yaml(file))
    except ValidationError as error:
        raise _bad_file(file, "; ".join(_explain(each) for each in error.errors())) from error
    try:
        return Policy(
            name=f"{POLICY_COLLECTION}/{entry.name}",
            version=entry.version,
            description=entry.description,
            aspects=tuple(Aspect(each) for each in entry.aspects),
            guards=tuple(each if "/" in each else f"guards/{each}" for each in entry.guards),
            combination=Combination(entry.combination),
            threshold=entry.threshold,
            hazards=tuple(
                PolicyHazard(code, None if told is None else told.threshold) for code, told in entry.hazards.items()
            ),
            on_error=ErrorHandling(entry.on_error),
            on_controversial=ControversialHandling(entry.on_controversial),
        )
    except PolicyFieldError as error:
        raise _bad_file(file, f"{error.field}: {error.problem}") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_file(file, f"cannot be read ({error})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _bad_file(file, f"{where}{error.problem or 'is not YAML'}") from error
    except yaml.YAMLError as error:
        raise _bad_file(file, f"is not YAML ({error})") from error
    if not isinstance(content, dict):
        raise _bad_file(file, "must hold a mapping of fields")
    return content


def _explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _PolicyEntry.model_fields if len(problem["loc"]) == 1 else _HazardEntry.model_fields
        return f"{field}: is no field, {_hint(str(problem['loc'][-1]), tuple(known))}"
    if problem["type"] == "literal_error":
        return f"{field}: {problem['msg']}, got {problem['input']!r}"
    return f"{field}: {problem['msg']}" if field else str(problem["msg"])


def _hint(name: str, candidates: tuple[str, ...]) -> str:
    near = nearest_names(name, candidates)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(candidates)}"


def _bad_file(file: Path, problem: str) -> PolicyFileError:
    return PolicyFileError(f"{file}: {problem}", metadata={"path": str(file)})
