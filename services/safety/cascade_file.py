"""Reads the calibration file of a cascade (``evalfleet calibrate-guard`` writes it) and holds it against the guards."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.runtime.errors import nearest_names
from services.safety.errors import CascadeFileError
from services.safety.guard import Guard
from services.safety.judgement import GuardReference

_DIGEST_FIELD: Final = "digest"
_COMPARED: Final = ("weights_digest", "template_digest", "calibration_digest", "engine", "dtype")
"""What decides a guard's probabilities; 8-bit ones, for instance, are others."""


class CascadeStage(BaseModel):
    """One guard of a cascade.

    Attributes:
        guard: its resource name.
        weights_digest: of the guard that was calibrated; so for what follows.
        engine: that computed its probabilities.
        dtype: number type that it computed in.
        low: it decides SAFE at this unsafe probability and below; None: never. Not given for the last stage.
        high: it decides UNSAFE at this unsafe probability and above; None: never.
        temperature: divides the log-odds of its probabilities, which then speak of the last stage's UNSAFE. Bounded, so
            that no probability between 0 and 1 becomes either.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    guard: str = Field(pattern=r"^guards/[a-z0-9][a-z0-9.-]{0,62}$")
    weights_digest: str
    template_digest: str
    calibration_digest: str
    engine: str
    dtype: str
    low: float | None = Field(None, ge=0, lt=1)
    high: float | None = Field(None, gt=0, le=1)
    temperature: float = Field(1.0, ge=0.05, le=20)

    @model_validator(mode="after")
    def _check_order(self) -> "CascadeStage":
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be below high")
        return self

    def decide(self, probability: float | None) -> bool | None:
        """Return whether this stage calls it unsafe; None if it hands on."""
        if probability is None or not math.isfinite(probability) or not 0 <= probability <= 1:
            return None
        if self.high is not None and probability >= self.high:
            return True
        return False if self.low is not None and probability <= self.low else None


class PromisedDisagreement(BaseModel):
    """What the calibration promises: with ``confidence``, at most ``disagreement`` with the last stage."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    disagreement: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)


class CascadeFile(BaseModel):
    """The content of a calibration file; what it tells of its evidence is left aside.

    Attributes:
        name: of the cascade as a guard.
        description: a sentence.
        promise: see there.
        stages: cheapest first.
        digest: SHA-256 (hex) of all the rest.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["evalfleet/cascade-calibration/1"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")
    description: str = Field(min_length=1)
    promise: PromisedDisagreement
    stages: tuple[CascadeStage, ...] = Field(min_length=2)
    digest: str

    @model_validator(mode="after")
    def _check_stages(self) -> "CascadeFile":
        names = [stage.guard for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("stages: every guard may occur once")
        if f"guards/{self.name}" in names:
            raise ValueError("stages: a cascade cannot be a stage of itself")
        last = self.stages[-1]
        if last.low is not None or last.high is not None:
            raise ValueError("stages: the last one decides everything and has neither low nor high")
        return self


def read_cascade(file: Path) -> CascadeFile:
    """Read a calibration file.

    Raises:
        CascadeFileError: it is not there, is no such file, or was changed after it was written.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CascadeFileError(
            f"there is no calibration file {file}; `evalfleet calibrate-guard` writes one",
            reason="CASCADE_FILE_NOT_FOUND",
            metadata={"path": str(file)},
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_file(file, f"cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise _bad_file(file, "must hold a JSON object")
    try:
        cascade = CascadeFile.model_validate(content)
    except ValidationError as error:
        raise _bad_file(file, "; ".join(_explain(each) for each in error.errors())) from error
    if cascade.digest != _digest(content):
        raise CascadeFileError(
            f"{file}: was changed after it was written; thresholds come from `evalfleet calibrate-guard`, not by hand",
            reason="CASCADE_DIGEST_WRONG",
            metadata={"path": str(file)},
        )
    return cascade


def find_stages(file: Path, cascade: CascadeFile, guards: Mapping[str, Guard]) -> tuple[Guard, ...]:
    """Return the guards of a cascade's stages.

    Args:
        file: for error messages.
        cascade: its content.
        guards: what there is, by resource name.

    Raises:
        CascadeFileError: a guard is not there, or is not exactly the one that was calibrated.
    """
    found = []
    for stage in cascade.stages:
        guard = guards.get(stage.guard)
        if guard is None:
            near = nearest_names(stage.guard, tuple(guards))
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(guards)) or 'none'}"
            raise _bad_file(
                file, f"stages: this service has no {stage.guard!r}, {hint}", reason="CASCADE_GUARD_MISSING"
            )
        differs = _difference(stage, guard.about.reference)
        if differs:
            raise CascadeFileError(
                f"{file}: {stage.guard} is not the guard that was calibrated: its {differs} differs, so nothing that "
                "was promised holds; run `evalfleet calibrate-guard` again",
                reason="CASCADE_GUARD_DIFFERS",
                metadata={"path": str(file), "guard": stage.guard, "field": differs},
            )
        found.append(guard)
    if not set.intersection(*(set(guard.about.aspects) for guard in found)):
        raise _bad_file(file, "stages: there is no aspect, prompt or response, that all of these guards judge")
    return tuple(found)


def _difference(stage: CascadeStage, reference: GuardReference) -> str:
    return next((name for name in _COMPARED if getattr(stage, name) != getattr(reference, name)), "")


def _digest(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != _DIGEST_FIELD}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {problem['msg']}" if field else str(problem["msg"])


def _bad_file(file: Path, problem: str, *, reason: str = "") -> CascadeFileError:
    return CascadeFileError(f"{file}: {problem}", reason=reason or None, metadata={"path": str(file)})
