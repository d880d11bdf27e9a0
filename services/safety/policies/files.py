"""Reads policies from YAML files."""

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.safety.errors import GuardFileError, PolicyFileError
from services.safety.judgement import Aspect
from services.safety.policies.policy import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    PolicyFieldError,
    PolicyHazard,
    TruncationHandling,
)
from services.safety.yaml_file import hint, read_yaml_mapping

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
    on_truncated: Literal["error", "judged-part"] = "error"


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
        entry = _PolicyEntry.model_validate(read_yaml_mapping(file))
    except GuardFileError as error:
        raise PolicyFileError(error.message, metadata=error.metadata) from error
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
            on_truncated=TruncationHandling(entry.on_truncated),
        )
    except PolicyFieldError as error:
        raise _bad_file(file, f"{error.field}: {error.problem}") from error


def _explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _PolicyEntry.model_fields if len(problem["loc"]) == 1 else _HazardEntry.model_fields
        return f"{field}: is no field, {hint(str(problem['loc'][-1]), tuple(known))}"
    if problem["type"] == "literal_error":
        return f"{field}: {problem['msg']}, got {problem['input']!r}"
    return f"{field}: {problem['msg']}" if field else str(problem["msg"])


def _bad_file(file: Path, problem: str) -> PolicyFileError:
    return PolicyFileError(f"{file}: {problem}", metadata={"path": str(file)})
