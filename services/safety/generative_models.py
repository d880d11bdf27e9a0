"""From an entry of the guards file to a guard model: what it is, how it is asked, and what the inference host loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from services.inference.checkpoints import CheckpointFacts, content_digest, inspect_checkpoint, read_json
from services.inference.contract import CausalLMArguments, DtypeName
from services.inference.errors import as_fleet_errors
from services.runtime.errors import FleetError
from services.safety import long_turns
from services.safety.catalogue import COLLECTION
from services.safety.digests import json_digest
from services.safety.formats.guard_format import GuardFormat
from services.safety.formats.registry import FormatOptions
from services.safety.formats.taxonomy import Taxonomy
from services.safety.guards_file import GenerativeEntry
from services.safety.judgement import (
    Aspect,
    GuardDescription,
    GuardReference,
    HazardCategory,
    JudgedTurn,
    Role,
    Turn,
)
from services.safety.yaml_file import file_error

ENGINE: Final = "transformers-causal-lm"

AutoDtype = Literal["float32", "checkpoint"]
"""What the number type ``auto`` stands for: float32, or that of the checkpoint's weights."""


@dataclass(frozen=True, slots=True)
class GenerativeModel:
    """A generative guard and what the inference host needs to run it.

    Attributes:
        about: what it is.
        guard_format: how it is asked.
        arguments: for the engine.
        checkpoint_name: at the guards' host. It holds a part of the digest, because a host keeps what it has.
    """

    about: GuardDescription
    guard_format: GuardFormat
    arguments: CausalLMArguments
    checkpoint_name: str


def generative_model(file: Path, entry: GenerativeEntry, auto_dtype: AutoDtype = "float32") -> GenerativeModel:
    """Inspect a guard's checkpoint. Reads all its weights: call it outside the event loop.

    Args:
        file: the guards file, for messages.
        entry: of that file.
        auto_dtype: what its number type is where it says ``auto``. It is settled here and not by the engine, so that
            references, caches and calibrations tell apart what was computed in different types.

    Raises:
        GuardFileError: the checkpoint cannot be used.
    """
    try:
        with as_fleet_errors():
            facts = inspect_checkpoint(entry.checkpoint)
            weights_digest = content_digest(entry.checkpoint)
            tokens = special_tokens(entry.checkpoint)
    except FleetError as error:
        raise file_error(file, f"guard {entry.name!r}: checkpoint: {error.message}") from error
    if entry.family.needs_template and not facts.has_chat_template:
        raise file_error(file, f"guard {entry.name!r}: checkpoint: has no chat template, and {entry.kind} needs one")
    if facts.context_tokens and (entry.context_tokens or 0) > facts.context_tokens:
        problem = f"is {entry.context_tokens}, the checkpoint reads {facts.context_tokens}"
        raise file_error(file, f"guard {entry.name!r}: context_tokens: {problem}")
    guard_format = entry.family.build(_options(entry, facts, tokens))
    dtype = _dtype(entry.dtype, facts, auto_dtype)
    arguments = CausalLMArguments(
        model=str(entry.checkpoint.resolve()), dtype=dtype, max_model_len=entry.context_tokens
    )
    about = _description(entry.model_copy(update={"dtype": dtype}), facts, guard_format, weights_digest, tokens)
    loaded = json_digest([weights_digest, arguments.dtype, arguments.max_model_len])
    return GenerativeModel(about, guard_format, arguments, f"{entry.name}-{loaded[:12]}")


def _dtype(wanted: DtypeName, facts: CheckpointFacts, auto_dtype: AutoDtype) -> DtypeName:
    if wanted != "auto":
        return wanted
    known: tuple[DtypeName, ...] = ("bfloat16", "float16")
    return next((each for each in known if auto_dtype == "checkpoint" and each == facts.dtype), "float32")


def special_tokens(checkpoint: Path) -> frozenset[str]:
    """Return the texts that a checkpoint's tokenizer takes for special tokens, as its files list them.

    Raises:
        InferenceFailure: a file cannot be read.
    """
    told = read_json(checkpoint / "tokenizer_config.json", required=False)
    added = [
        *_list_of(read_json(checkpoint / "tokenizer.json", required=False).get("added_tokens")),
        *_list_of(told.get("added_tokens_decoder")),
    ]
    tokens = {
        each["content"]
        for each in added
        if isinstance(each, dict) and isinstance(each.get("content"), str) and _is_special(each)
    }
    for source in (told, read_json(checkpoint / "special_tokens_map.json", required=False)):
        for name, value in source.items():
            if name.endswith(("_token", "special_tokens")):
                tokens.update(_contents(value))
    return frozenset(tokens - {""})


def _is_special(token: dict[str, Any]) -> bool:
    return bool(token.get("special")) or token["content"].startswith("<|")


def _list_of(value: object) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _contents(value: object) -> list[str]:
    if isinstance(value, dict) and "content" in value:
        return _contents(value["content"])
    if isinstance(value, str):
        return [value]
    return [content for each in _list_of(value) for content in _contents(each)]


def _options(entry: GenerativeEntry, facts: CheckpointFacts, tokens: frozenset[str]) -> FormatOptions:
    policy = entry.policy
    return FormatOptions(
        special_tokens=tokens,
        has_template=facts.has_chat_template,
        categories=entry.categories,
        policy=policy.text if policy else "",
        taxonomy=Taxonomy(name=policy.taxonomy, version=policy.taxonomy_version, categories=policy.categories)
        if policy
        else None,
        reasoning_effort=entry.reasoning_effort,
    )


def _asked_about(guard_format: GuardFormat) -> tuple[HazardCategory, ...]:
    """Return the categories that a guard can find: of a family asked by category, those it is asked about."""
    turn = JudgedTurn([Turn(Role.USER, "?")], 0, Aspect.PROMPT)
    asked = {question.category for question in guard_format.questions(turn)}
    return tuple(each for each in guard_format.taxonomy.all() if asked == {""} or each.code in asked)


def _description(
    entry: GenerativeEntry,
    facts: CheckpointFacts,
    guard_format: GuardFormat,
    weights_digest: str,
    tokens: frozenset[str],
) -> GuardDescription:
    taxonomy = guard_format.taxonomy
    reference = GuardReference(
        name=f"{COLLECTION}/{entry.name}",
        weights_digest=weights_digest,
        template_digest=json_digest([guard_format.template, sorted(tokens), entry.context_tokens, long_turns.VERSION]),
        calibration_digest=json_digest([entry.threshold, taxonomy.model_dump(mode="json")]),
        engine=ENGINE,
        dtype=entry.dtype,
    )
    return GuardDescription(
        reference=reference,
        description=entry.description or f"A language model that answers as {entry.kind} does.",
        aspects=guard_format.aspects,
        categories=_asked_about(guard_format),
        default_threshold=entry.threshold,
        max_tokens=entry.context_tokens or facts.context_tokens,
    )
