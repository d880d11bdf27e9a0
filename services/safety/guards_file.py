"""The guards that run beside the default one: EVALFLEET_GUARDS_FILE, a YAML list."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.inference.contract import DtypeName
from services.safety.formats.registry import FAMILIES, Family, known_categories
from services.safety.formats.taxonomy import GuardedCategory
from services.safety.yaml_file import file_error, hint, read_yaml_mapping, validated

KEYWORDS: Final = "keywords"
REFUSAL: Final = "refusal"
CASCADE: Final = "cascade"
CLASSIFIER: Final = "classifier"
NGRAMS: Final = "ngrams"


class Entry(BaseModel):
    """What every entry says.

    Attributes:
        name: the guard's id; its resource name is ``guards/{name}``.
        kind: a family of generative guards, ``classifier``, ``ngrams``, ``keywords``, ``refusal`` or
            ``cascade``.
        description: a sentence for ListGuards; default: one about the kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")
    kind: str
    description: str = ""


class Policy(BaseModel):
    """A policy of the deployer's own.

    Attributes:
        text: what is forbidden, in prose; it names the codes below.
        taxonomy: name of the taxonomy that the codes belong to.
        taxonomy_version: its version.
        categories: by code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(min_length=1)
    taxonomy: str = Field(min_length=1)
    taxonomy_version: str = Field(min_length=1)
    categories: dict[str, GuardedCategory] = Field(min_length=1)


class GenerativeEntry(Entry):
    """A guard that is a language model.

    Attributes:
        checkpoint: its folder; Triton must see it under the same path.
        dtype: number type to compute in; what auto is, the service's settings say.
        threshold: on the unsafe probability; None decides by what the guard says.
        context_tokens: longest prompt with its answer; default: the checkpoint's.
        categories: codes to ask about, where the family asks one question a category; default: the family's.
        policy: where the family takes one.
        reasoning_effort: where the family reasons.
    """

    checkpoint: Path
    dtype: DtypeName = "auto"
    threshold: float | None = Field(None, gt=0, le=1)
    context_tokens: int | None = Field(None, ge=1)
    categories: tuple[str, ...] = ()
    policy: Policy | None = None
    reasoning_effort: Literal["low", "medium", "high"] = "low"

    @property
    def family(self) -> Family:
        """How models of this kind are asked."""
        return FAMILIES[self.kind]


class ClassifierEntry(Entry):
    """A Hugging Face sequence classifier, or a head, perhaps with an adapter, on the embedded guard's encoder.

    Attributes:
        checkpoint: its folder; Triton must see it under the same path. One with a head.json holds a head.
        guard_file: what its labels mean; default: guard.yaml inside the folder.
        dtype: number type to compute in.
    """

    checkpoint: Path
    guard_file: Path | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class NgramEntry(Entry):
    """A classifier on n-grams, which needs no inference server.

    Attributes:
        folder: that ``evalfleet distill-guard`` made.
        threshold: on the unsafe probability; default: the folder's.
    """

    folder: Path
    threshold: float | None = Field(None, gt=0, le=1)


class KeywordEntry(Entry):
    """A blocklist.

    Attributes:
        blocklist: its YAML file.
    """

    blocklist: Path


class RefusalEntry(Entry):
    """The refusal detector; it needs nothing."""


class CascadeEntry(Entry):
    """A cascade of other guards of this service.

    Attributes:
        calibration: the file that ``evalfleet calibrate-guard`` wrote; it names the guards.
    """

    calibration: Path


_ENTRY_KINDS: Final[Mapping[str, type[Entry]]] = MappingProxyType(
    {
        **dict.fromkeys(FAMILIES, GenerativeEntry),
        CLASSIFIER: ClassifierEntry,
        NGRAMS: NgramEntry,
        KEYWORDS: KeywordEntry,
        REFUSAL: RefusalEntry,
        CASCADE: CascadeEntry,
    }
)


def read_guards_file(file: Path) -> list[Entry]:
    """Read the entries; paths in them are relative to the file's folder.

    Raises:
        GuardFileError: with file, field, and the nearest valid name.
    """
    content = read_yaml_mapping(file)
    for field in content:
        if field != "guards":
            raise file_error(file, f"{field}: is no field, the only one is guards")
    told = content.get("guards")
    if not isinstance(told, list) or not told:
        raise file_error(file, "guards: must be a list of guards")
    entries = [_entry(file, f"guards[{index}]", each) for index, each in enumerate(told)]
    for index, entry in enumerate(entries):
        if entry.name in {each.name for each in entries[:index]}:
            raise file_error(file, f"guards[{index}].name: {entry.name!r} stands there twice")
    return entries


def _entry(file: Path, place: str, told: Any) -> Entry:
    if not isinstance(told, dict):
        raise file_error(file, f"{place}: must hold a mapping of fields")
    kind = told.get("kind")
    model = _ENTRY_KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise file_error(file, f"{place}.kind: {kind!r} is no kind of guard, {hint(str(kind), tuple(_ENTRY_KINDS))}")
    entry = validated(file, model, told, within=place)
    folder = file.parent
    if isinstance(entry, GenerativeEntry):
        _check_family(file, place, entry)
        return entry.model_copy(update={"checkpoint": folder / entry.checkpoint})
    if isinstance(entry, ClassifierEntry):
        guard_file = folder / entry.guard_file if entry.guard_file else None
        return entry.model_copy(update={"checkpoint": folder / entry.checkpoint, "guard_file": guard_file})
    if isinstance(entry, NgramEntry):
        return entry.model_copy(update={"folder": folder / entry.folder})
    if isinstance(entry, KeywordEntry):
        return entry.model_copy(update={"blocklist": folder / entry.blocklist})
    if isinstance(entry, CascadeEntry):
        return entry.model_copy(update={"calibration": folder / entry.calibration})
    return entry


def _check_family(file: Path, place: str, entry: GenerativeEntry) -> None:
    family = entry.family
    if family.takes_policy != (entry.policy is not None):
        problem = "is missing; this kind judges by a policy of yours" if family.takes_policy else "means nothing here"
        raise file_error(file, f"{place}.policy: {problem}")
    if entry.categories and not family.asks_by_category:
        raise file_error(file, f"{place}.categories: means nothing here; {entry.kind} is asked about all at once")
    known = tuple(known_categories(family)) if family.asks_by_category else ()
    for code in entry.categories:
        if code not in known:
            raise file_error(file, f"{place}.categories: {code!r} is no category of {entry.kind}, {hint(code, known)}")
