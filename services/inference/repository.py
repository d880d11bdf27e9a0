"""Builds what Triton loads: entries for explicit model control, and the repository of models loaded at start.

Nothing in an entry is code of ours but one import line; the engine itself comes from the environment that Triton's
stub runs in.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from services.inference import contract
from services.inference.checkpoints import inspect_checkpoint, read_json
from services.inference.contract import (
    CausalLMArguments,
    ClassifierArguments,
    EncoderArguments,
    EngineKind,
    ModelEntry,
)
from services.inference.errors import as_fleet_errors
from services.inference.host_contract import HostArguments, HostKind, host_config
from services.runtime.errors import FailedPreconditionError, InvalidArgumentError

MODEL_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MODEL_MODULES: Final[dict[EngineKind, str]] = {
    "causal_lm": "services.inference.triton_models.causal_lm",
    "sequence_classifier": "services.inference.triton_models.sequence_classifier",
    "sentence_encoder": "services.inference.triton_models.sentence_encoder",
    "checkpoint_host": "services.inference.triton_models.checkpoint_host",
    "vllm_host": "services.inference.triton_models.vllm_host",
}
_IMPORTED_FIRST: Final = "services.inference.engines.lean_transformers"


def check_model_name(name: str) -> str:
    """Return ``name`` if the inference host may have a model of that name.

    Raises:
        InvalidArgumentError: MODEL_NAME_INVALID. Triton itself would take a path as a name.
    """
    if not MODEL_NAME_PATTERN.fullmatch(name):
        raise InvalidArgumentError(
            f"model name {name!r} must start with a letter or digit and hold up to 128 of A-Z a-z 0-9 . _ -",
            reason="MODEL_NAME_INVALID",
            metadata={"name": name},
        )
    return name


def causal_lm_entry(arguments: CausalLMArguments) -> ModelEntry:
    """Build the entry of a causal language model; the checkpoint itself is read by the inference host."""
    return _entry("causal_lm", json.dumps(contract.causal_lm_config()), asdict(arguments))


def host_entry(control_key_sha256: str, kind: HostKind = "checkpoint_host") -> ModelEntry:
    """Build the entry of a checkpoint host, which operations with the key of this digest may use."""
    return _entry(kind, json.dumps(host_config(kind)), asdict(HostArguments(control_key_sha256)))


def classifier_entry(arguments: ClassifierArguments) -> ModelEntry:
    """Build the entry of a sequence classifier; its labels are read here, from the head or the checkpoint.

    Raises:
        FleetError: the checkpoint or the head cannot be used.
    """
    config = contract.classifier_config(classifier_labels(arguments))
    return _entry("sequence_classifier", json.dumps(config), asdict(arguments))


def classifier_labels(arguments: ClassifierArguments) -> tuple[str, ...]:
    """Return the labels of a classifier in the order of its probabilities.

    Raises:
        FleetError: the checkpoint or the head cannot be used.
    """
    with as_fleet_errors():
        facts = inspect_checkpoint(arguments.model)
        labels = (
            facts.labels
            if arguments.head is None
            else tuple(map(str, read_json(Path(arguments.head) / "head.json").get("labels") or ()))
        )
    if not labels:
        raise FailedPreconditionError(
            f"{arguments.head or arguments.model} names no labels; a classifier needs id2label in config.json, "
            "or a head folder with labels in head.json",
            reason="CHECKPOINT_INVALID",
            metadata={"path": arguments.head or arguments.model},
        )
    return labels


def encoder_entry(arguments: EncoderArguments) -> ModelEntry:
    """Build the entry of a sentence encoder; the length of its vectors is read here, from config.json.

    Raises:
        FleetError: the checkpoint cannot be used.
    """
    with as_fleet_errors():
        facts = inspect_checkpoint(arguments.model)
        dimensions = read_json(facts.path / "config.json").get("hidden_size")
    if not isinstance(dimensions, int) or dimensions < 1:
        raise FailedPreconditionError(
            f"{arguments.model} does not say in config.json how long its vectors are (hidden_size); name an encoder",
            reason="CHECKPOINT_INVALID",
            metadata={"path": arguments.model},
        )
    return _entry("sentence_encoder", json.dumps(contract.encoder_config(dimensions)), asdict(arguments))


def _entry(kind: EngineKind, config: str, arguments: Mapping[str, object]) -> ModelEntry:
    source = f"import {_IMPORTED_FIRST}\nfrom {_MODEL_MODULES[kind]} import TritonPythonModel  # noqa: F401\n"
    return ModelEntry(
        config=config,
        files={
            "1/model.py": source.encode(),
            f"1/{contract.ARGUMENTS_FILE}": contract.arguments_to_json(arguments).encode(),
        },
    )


def write_repository(folder: Path, entries: Mapping[str, ModelEntry]) -> None:
    """Write the model repository of the models that are loaded at start, replacing what is in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, entry in entries.items():
        model_folder = folder / check_model_name(name)
        for path, content in entry.files.items():
            file = model_folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (model_folder / "config.pbtxt").write_text(_config_text(name, entry.config), encoding="utf-8")


def _config_text(name: str, config: str) -> str:
    message = json_format.Parse(config, model_config_pb2.ModelConfig())
    message.name = name
    return text_format.MessageToString(message)
