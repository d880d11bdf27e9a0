"""Reads what describes a guard beside its weights: guard.yaml and, where a script measured it, calibration.json."""

import json
import math
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.safety.errors import GuardFileError
from services.safety.judgement import HazardCategory
from services.safety.scripts import ReadScripts
from services.safety.yaml_file import file_error, hint, read_yaml_mapping, validated

_MAX_WINDOWS: Final = 80
"""At the overlap of a quarter they reach about as far as 64 did at an eighth."""

MOST_UNKNOWN: Final = 0.2
"""Hazardous words hide behind more; of ordinary English rows one in ten thousand has more."""

SAFE_LABEL: Final = "safe"
UNSAFE_LABEL: Final = "unsafe"
CALIBRATION_FILE: Final = "calibration.json"


class CategoryEntry(BaseModel):
    """What a category covers and where it belongs in MLCommons AILuminate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    ailuminate: str = ""


class LaterWindows(BaseModel):
    """How what is found in the windows of a long text after the first counts.

    A text of many windows has as many occasions of a false alarm, so a later one has to exceed a higher bar; and how
    far it exceeds the bar says less than it does in the first. What is clearly hazardous is UNSAFE all the same.

    Attributes:
        margin: by how much the log-odds are lowered.
        weight: by what the part of them that is still above the threshold's is multiplied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: float = Field(0.0, ge=0, le=6)
    weight: float = Field(1.0, gt=0, le=1)

    def weighed(self, probability: float, threshold: float) -> float:
        """Return what a probability counts for. Order is kept, and 0 and 1 stay what they are.

        Args:
            probability: from 0 to 1.
            threshold: that it will be compared with. The weight changes no decision made at it, the margin alone does.
        """
        if not 0 < probability < 1 or (self.margin == 0 and self.weight == 1):
            return probability
        found = _log_odds(probability) - self.margin
        if not 0 < threshold < 1 or found < (bar := _log_odds(threshold)):
            return _probability(found)
        return max(threshold, _probability(bar + self.weight * (found - bar)))


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def _probability(log_odds: float) -> float:
    # Of a negative number, so that it cannot overflow.
    rest = math.exp(-abs(log_odds))
    return (rest if log_odds < 0 else 1.0) / (1 + rest)


class GuardFile(BaseModel):
    """The content of guard.yaml.

    Attributes:
        name: the guard's id; its resource name is ``guards/{name}``.
        description: a sentence.
        aspects: what it can judge.
        max_tokens: longest text in tokens; a head's own limit counts where it is left out.
        window_tokens: length in tokens of the windows in which longer texts are read after the first, which is as long
            as may be; default: the same, for what is behind the first. Shorter ones read the whole text again.
        max_windows: most windows of one text; what is behind them is left out, and the verdict is marked as truncated.
        later_windows: how what is found in the windows after the first counts; default: as in the first.
        scripts: those that the model reads: what is not UNSAFE, but in others, is an ERROR; default: it reads all.
        most_unknown: largest share of tokens, of any 32 in a row, that stand for what the tokenizer's vocabulary lacks;
            what has more, and is not UNSAFE, is an ERROR. Unknown emoji count neither way.
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
    max_windows: int = Field(_MAX_WINDOWS, ge=1, le=1024)
    later_windows: LaterWindows = LaterWindows()
    scripts: ReadScripts | None = None
    most_unknown: float = Field(MOST_UNKNOWN, ge=0, lt=1)
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
