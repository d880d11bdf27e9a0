"""Reads what describes a guard beside its weights: guard.yaml and, where a script measured it, calibration.json."""

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.safety.errors import GuardFileError
from services.safety.judgement import HazardCategory
from services.safety.yaml_file import file_error, hint, read_yaml_mapping, validated

SAFE_LABEL: Final = "safe"
UNSAFE_LABEL: Final = "unsafe"
CALIBRATION_FILE: Final = "calibration.json"


class CategoryEntry(BaseModel):
    """What a category covers and where it belongs in MLCommons AILuminate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    ailuminate: str = ""


class GuardFile(BaseModel):
    """The content of guard.yaml.

    Attributes:
        name: the guard's id; its resource name is ``guards/{name}``.
        description: a sentence.
        aspects: what it can judge.
        max_tokens: longest text in tokens; a head's own limit counts where it is left out.
        window_tokens: length of the windows in which longer texts are read, in tokens; default: as long as may be.
        special_tokens: tokens that the tokenizer adds to every text; a text that has no other was not read.
        threshold: on the unsafe probability; calibration.json beside the file goes first.
        taxonomy: name of the taxonomy that the category codes belong to; empty where there are none.
        taxonomy_version: its version.
        categories: by code; none for a model that only says ``safe`` or ``unsafe``.
        labels: what the model's labels mean: a category code, ``safe`` or ``unsafe``. A label that is not named here
            means the code of its own name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")
    description: str = Field(min_length=1)
    aspects: tuple[Literal["prompt", "response"], ...] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    window_tokens: int | None = Field(None, ge=16)
    special_tokens: int = Field(0, ge=0)
    threshold: float | None = Field(None, gt=0, le=1)
    taxonomy: str = ""
    taxonomy_version: str = ""
    categories: dict[str, CategoryEntry] = {}
    labels: dict[str, str] = {}

    @model_validator(mode="after")
    def _check_meanings(self) -> "GuardFile":
        if self.categories and not (self.taxonomy and self.taxonomy_version):
            raise ValueError("taxonomy: must be named, with its version, where there are categories")
        reserved = sorted({SAFE_LABEL, UNSAFE_LABEL} & set(self.categories))
        if reserved:
            raise ValueError(f"a category cannot be called {reserved[0]!r}: that word says what a label means")
        meanings = (SAFE_LABEL, UNSAFE_LABEL, *self.categories)
        for label, meaning in self.labels.items():
            if meaning not in meanings:
                raise ValueError(f"label {label!r} means {meaning!r}, {hint(meaning, meanings)}")
        return self

    def category(self, code: str) -> HazardCategory:
        """Return a category of this file's taxonomy by its code."""
        entry = self.categories[code]
        return HazardCategory(self.taxonomy, self.taxonomy_version, code, entry.title, entry.ailuminate)

    def meaning(self, label: str) -> str | None:
        """Return what a label of the model means; None if the taxonomy has nothing for it."""
        meaning = self.labels.get(label, label)
        return meaning if meaning in (SAFE_LABEL, UNSAFE_LABEL) or meaning in self.categories else None


def read_guard_file(file: Path) -> GuardFile:
    """Read a guard.yaml, and the threshold from calibration.json beside it if that exists.

    Raises:
        GuardFileError: with file, line or field, and the nearest valid name.
    """
    if not file.is_file():
        raise GuardFileError(
            f"there is no guard file {file}; it says what the model's labels mean (docs/api/safety.md)",
            reason="GUARD_FILE_NOT_FOUND",
            metadata={"path": str(file)},
        )
    content = read_yaml_mapping(file)
    calibration = file.with_name(CALIBRATION_FILE)
    if calibration.is_file():
        content["threshold"] = _read_threshold(calibration)
    guard = validated(file, GuardFile, content)
    if guard.threshold is None:
        raise file_error(file, f"threshold: is missing here and in {CALIBRATION_FILE}; give one above 0 and up to 1")
    return guard


def check_labels(file: Path, guard: GuardFile, labels: tuple[str, ...]) -> None:
    """Make sure that a guard file and a model speak of the same labels.

    Raises:
        GuardFileError: the file names a label that the model lacks, or none of the model's labels means anything.
    """
    for label in guard.labels:
        if label not in labels:
            raise file_error(file, f"labels: the model has no label {label!r}, {hint(label, labels)}")
    if not any(guard.meaning(label) for label in labels):
        raise file_error(file, f"labels: say what the model's labels mean ({', '.join(labels[:10])})")


def _read_threshold(file: Path) -> object:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content["threshold"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise file_error(file, f"must be a JSON object with a threshold ({error})") from error
