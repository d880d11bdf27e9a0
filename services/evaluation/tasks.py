"""A task as it is run: its definition, which variant of it, and what a suite changed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.evaluation.specification import TaskSpec
from services.evaluation.suite_specification import StartingTiersSpec, SuiteEntry, TierSpec

_UNDIGESTED = {"description", "provenance", "comparable_to"}
_DIGEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Task:
    """One runnable task.

    Attributes:
        name: unique in its suite; of a variant ``family_variant``.
        family: the definition's name; equals ``name`` where there are no variants.
        spec: the definition, a suite entry's changes included.
        constants: what templates see beside a row's columns: the definition's constants, the variant and its own.
        bundled_data: the folder that sources with ``root: bundled`` are read from.
        from_family: a suite named the family, so that missing data leaves the variant out.
        limit: most items; ``None``: all.
    """

    name: str
    family: str
    spec: TaskSpec
    constants: Mapping[str, Any]
    bundled_data: Path
    from_family: bool = False
    limit: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all of the definition that can change an item or its score; see also LoadedTask."""
        content = {
            "version": _DIGEST_VERSION,
            "name": self.name,
            "constants": self.constants,
            "limit": self.limit,
            "spec": self.spec.model_dump(mode="json", exclude=_UNDIGESTED | {"variants", "constants"}),
        }
        return canonical_digest(content)


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks that are run together."""

    name: str
    description: str
    tasks: tuple[Task, ...]
    implicit: bool = field(default=False)
    """True if there is no file of this suite: it is one task or family under its own name."""
    tiers: Mapping[str, TierSpec] = field(default_factory=dict)
    """How deep runs go that name a tier; no part of the digest, since it changes no item's score."""
    starting_tiers: Mapping[str, str] = field(default_factory=lambda: StartingTiersSpec().model_dump())
    """The tier in which a run begins that leaves it to the suite, by what is new in the model."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the digests of its tasks, in order."""
        return canonical_digest([task.digest for task in self.tasks])


def expand(spec: TaskSpec, bundled_data: Path) -> tuple[Task, ...]:
    """The task of a definition, or all of its variants in the order of the file."""
    if spec.variants is None:
        return (_task(spec.name, spec, spec.constants, bundled_data),)
    return tuple(
        _task(
            variant_name(spec.name, value),
            spec,
            {**spec.constants, spec.variants.field: value, **constants},
            bundled_data,
        )
        for value, constants in spec.variants.values.items()
    )


def _task(name: str, spec: TaskSpec, constants: Mapping[str, Any], bundled_data: Path) -> Task:
    scorers = tuple(use.resolved(constants) for use in spec.scorers)
    resolved = spec.model_copy(update={"scorers": scorers, "generation": spec.generation.resolved(constants)})
    return Task(name, spec.name, resolved, constants, bundled_data)


def variant_name(family: str, value: str) -> str:
    """``mmlu`` and ``anatomy`` make ``mmlu_anatomy``; other than letters and digits become ``_``."""
    return f"{family}_{value.lower().replace('-', '_')}"


def with_changes(task: Task, entry: SuiteEntry, *, from_family: bool) -> Task:
    """The task as a suite entry wants it.

    Raises:
        ValueError: the entry changes examples or a guard of a task that has none.
    """
    changes: dict[str, Any] = {}
    if entry.format is not None:
        changes["format"] = entry.format
    if entry.max_tokens is not None:
        changes["generation"] = task.spec.generation.model_copy(update={"max_tokens": entry.max_tokens})
    if entry.few_shot_count is not None:
        few_shot = task.spec.few_shot
        if few_shot is None:
            raise ValueError("the task has no few_shot examples to count")
        if few_shot.examples is not None and entry.few_shot_count > len(few_shot.examples):
            raise ValueError(f"the task has {len(few_shot.examples)} few_shot examples")
        changes["few_shot"] = few_shot.model_copy(update={"count": entry.few_shot_count})
    if entry.safety is not None:
        if task.spec.safety is None:
            raise ValueError("no guard judges the task, so there is none to replace")
        changes["safety"] = task.spec.safety.by(entry.safety)
    spec = task.spec.model_copy(update=changes)
    return Task(task.name, task.family, spec, task.constants, task.bundled_data, from_family, entry.limit)


def canonical_digest(content: object) -> str:
    """SHA-256 (hex) of ``content`` as JSON with sorted keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def draw_order(item_ids: Sequence[str], *, seed: int, task: str) -> tuple[int, ...]:
    """A permutation of ``range(len(item_ids))``: the order in which the items of a task are drawn.

    Item ``i`` is ranked by SHA-256 over (task, seed, item id). The order is thus the same for every checkpoint, machine
    and version, does not depend on how the data file is sorted, and survives added or removed rows: the items that
    stay keep their relative order, so that two runs with the same limit share almost all items.
    """

    def rank(index: int) -> tuple[bytes, str]:
        return draw_rank(item_ids[index], seed=seed, task=task), item_ids[index]

    return tuple(sorted(range(len(item_ids)), key=rank))


def draw_rank(item_id: str, *, seed: int, task: str) -> bytes:
    """What ``draw_order`` ranks an item by."""
    key = f"evalfleet-draw-1\0{task}\0{seed}\0{item_id}"
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
