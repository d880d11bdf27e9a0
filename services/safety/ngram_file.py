"""The folder of an n-gram classifier: ngrams.json describes it, ngrams.safetensors holds its numbers. No pickle."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.safety.digests import json_digest
from services.safety.encoder import file_sha256
from services.safety.errors import GuardFileError, NgramsNotInstalledError
from services.safety.guard_file import SAFE_LABEL, UNSAFE_LABEL, CategoryEntry
from services.safety.judgement import HazardCategory
from services.safety.new_folder import new_folder
from services.safety.ngram_model import NgramModel, NgramSettings, hashing_digest

DESCRIPTION_FILE: Final = "ngrams.json"
WEIGHTS_FILE: Final = "ngrams.safetensors"
FORMAT: Final = "evalfleet/ngrams-guard/1"
_DIGEST_FIELD: Final = "digest"


class CountedNgrams(BaseModel):
    """``NgramSettings`` as the file has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[int, int]
    characters: tuple[int, int]
    features: int = Field(ge=2**8, le=2**24)
    max_characters: int = Field(ge=400, le=1_000_000)

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name, (least, most) in (("words", self.words), ("characters", self.characters)):
            if not 1 <= least <= most <= 10:
                raise ValueError(f"{name}: must be a least and a most number from 1 to 10")
        if self.features.bit_count() != 1:
            raise ValueError("features: must be a power of two")
        return self


class Teacher(BaseModel):
    """Which exact guard the classifier learnt from; see ``GuardReference``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights_digest: str
    template_digest: str
    calibration_digest: str
    engine: str = ""
    dtype: str = ""


class NgramFile(BaseModel):
    """The content of ngrams.json.

    Attributes:
        format: of this file and of the numbers beside it.
        description: a sentence.
        aspects: what it can judge.
        labels: one an output: ``unsafe``, or codes of ``categories``.
        threshold: on the unsafe probability.
        least_known_share: least share of a text's words that training must have had; below it is not judged.
        taxonomy: name of the taxonomy that the codes belong to; empty where there are none.
        taxonomy_version: its version.
        categories: by code; each is a label.
        ngrams: what is counted.
        hashing_digest: of how it was counted where it was trained.
        weights_sha256: of ngrams.safetensors.
        teacher: what it learnt from; None if from labels of people.
        training: how it was trained and how good it was, for people to read.
        digest: SHA-256 (hex) of all the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["evalfleet/ngrams-guard/1"] = FORMAT
    description: str = Field(min_length=1)
    aspects: tuple[Literal["prompt", "response"], ...] = Field(("prompt", "response"), min_length=1)
    labels: tuple[str, ...] = Field((UNSAFE_LABEL,), min_length=1)
    threshold: float = Field(0.5, gt=0, le=1)
    least_known_share: float = Field(0.5, ge=0, le=1)
    taxonomy: str = ""
    taxonomy_version: str = ""
    categories: dict[str, CategoryEntry] = {}
    ngrams: CountedNgrams
    hashing_digest: str
    weights_sha256: str
    teacher: Teacher | None = None
    training: dict[str, Any] = {}
    digest: str = ""

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: every one may occur once")
        if SAFE_LABEL in self.labels or {SAFE_LABEL, UNSAFE_LABEL} & set(self.categories):
            raise ValueError("labels: 'safe' is none here, and 'unsafe' is no category")
        # A category without an output would be known to the guard and never be found.
        if set(self.categories) != set(self.labels) - {UNSAFE_LABEL}:
            raise ValueError("categories: must be those of the labels")
        if self.categories and not (self.taxonomy and self.taxonomy_version):
            raise ValueError("taxonomy: must be named, with its version, where there are categories")
        return self

    @property
    def special_tokens(self) -> int:
        """Words that every text has; as a label reader asks for them."""
        return 0

    @property
    def settings(self) -> NgramSettings:
        """What is counted, as the model takes it."""
        return NgramSettings(**self.ngrams.model_dump())

    def meaning(self, label: str) -> str | None:
        """Return what an output means: itself."""
        return label if label in self.labels else None

    def category(self, code: str) -> HazardCategory:
        """Return a category by its code."""
        entry = self.categories[code]
        return HazardCategory(self.taxonomy, self.taxonomy_version, code, entry.title, entry.ailuminate)


def save_ngrams(folder: Path, model: NgramModel, description: str, **facts: Any) -> NgramFile:
    """Write a classifier to a folder that is not there yet; an interruption leaves no half of it.

    Args:
        folder: to make.
        model: what is written.
        description: a sentence.
        facts: further fields of ``NgramFile``: threshold, teacher, training.

    Raises:
        AlreadyExistsError: the folder is there.
    """
    with new_folder(folder) as made:
        _write_numbers(made / WEIGHTS_FILE, model)
        content = NgramFile(
            description=description,
            labels=model.labels,
            ngrams=CountedNgrams.model_validate(_as_mapping(model.settings)),
            hashing_digest=hashing_digest(model.settings),
            weights_sha256=file_sha256(made / WEIGHTS_FILE),
            **facts,
        )
        content = content.model_copy(update={_DIGEST_FIELD: _digest(content.model_dump(mode="json"))})
        text = json.dumps(content.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
        (made / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
    return content


def read_ngrams(folder: Path) -> tuple[NgramFile, NgramModel]:
    """Read a classifier. Takes half a second the first time: call it outside the event loop.

    Raises:
        GuardFileError: something is missing, damaged, of another shape, no number, or was changed.
        NgramsNotInstalledError: what it computes with is not there.
    """
    file = folder / DESCRIPTION_FILE
    described = _read_description(file)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise _bad(weights, "is missing", reason="GUARD_FILE_NOT_FOUND")
    if file_sha256(weights) != described.weights_sha256:
        raise _bad(weights, f"is not the file that {DESCRIPTION_FILE} speaks of", reason="NGRAMS_WEIGHTS_DIFFER")
    model = _model(weights, described, _read_numbers(weights))
    if hashing_digest(model.settings) != described.hashing_digest:
        raise _bad(
            file,
            "n-grams are counted otherwise here than where it was trained; install the versions of "
            "requirements/constraints.txt, or train it again",
            reason="NGRAMS_HASHED_OTHERWISE",
        )
    return described, model


def _read_description(file: Path) -> NgramFile:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _bad(
            file, "is missing; `evalfleet distill-guard` makes such folders", reason="GUARD_FILE_NOT_FOUND"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(file, f"cannot be read as JSON ({error})") from error
    try:
        described = NgramFile.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise _bad(file, problems) from error
    if described.digest != _digest(content):
        raise _bad(file, "was changed after it was written: its digest is wrong", reason="NGRAMS_DIGEST_WRONG")
    return described


def _model(file: Path, described: NgramFile, numbers: Mapping[str, Any]) -> NgramModel:
    features, labels = 2 * described.ngrams.features, len(described.labels)
    shapes = {"weight": (features, labels), "bias": (labels,), "scale": (features,)}
    for name, shape in shapes.items():
        found = numbers.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            told = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
            raise _bad(file, f"{name} {told}, must be float32 {list(shape)}", reason="NGRAMS_WEIGHTS_INVALID")
        if not np.isfinite(found).all():
            raise _bad(file, f"{name} holds what is no number", reason="NGRAMS_WEIGHTS_INVALID")
    words = numbers.get("known_words")
    if words is None or words.dtype != np.uint32 or words.ndim != 1:
        raise _bad(file, "known_words must be a list of uint32", reason="NGRAMS_WEIGHTS_INVALID")
    weight, bias, scale = (numbers[name].astype(np.float64) for name in shapes)
    return NgramModel(described.settings, described.labels, weight, bias, scale, frozenset(words.tolist()))


def _write_numbers(file: Path, model: NgramModel) -> None:
    save_file = _safetensors().save_file
    numbers = {"weight": model.weight, "bias": model.bias, "scale": model.scale}
    known = np.array(sorted(model.known_words), dtype=np.uint32)
    save_file({**{name: each.astype(np.float32) for name, each in numbers.items()}, "known_words": known}, file)


def _read_numbers(file: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError

    try:
        content: Mapping[str, Any] = _safetensors().load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise _bad(file, f"is no safetensors file ({error})", reason="NGRAMS_WEIGHTS_INVALID") from error
    return content


def _safetensors() -> Any:
    try:
        from safetensors import numpy as safetensors_numpy
    except ImportError as error:
        raise NgramsNotInstalledError(
            f"guards of the kind ngrams need safetensors ({error}): pip install 'evalfleet-services[ngrams]'"
        ) from error
    return safetensors_numpy


def _as_mapping(settings: NgramSettings) -> dict[str, Any]:
    names: Sequence[str] = NgramSettings.__slots__
    return {name: getattr(settings, name) for name in names}


def _digest(content: Mapping[str, Any]) -> str:
    return json_digest({key: value for key, value in content.items() if key != _DIGEST_FIELD})


def _bad(file: Path, problem: str, *, reason: str = "") -> GuardFileError:
    return GuardFileError(f"{file}: {problem}", reason=reason or None, metadata={"path": str(file)})
