"""What a checkpoint folder holds, read without torch; refuses what must not or cannot be loaded.

Only safetensors weights are accepted, because pickled ones run code when they are opened, and no checkpoint that
brings Python of its own. A file that was cut short is found here rather than in the middle of a load.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.inference.failures import InferenceFailure
from services.inference.safetensors_header import Header, read_header

_CONTEXT_KEYS: Final = ("n_positions", "max_position_embeddings", "n_ctx")
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
# What decides a model's answers; logs, optimiser states and notes beside it don't.
CONTENT_PATTERNS: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template.*",
    "head.json",
    "adapter_config.json",
)
_WEIGHT_PATTERNS: Final = ("*.safetensors", "*.safetensors.index.json")
LINEAGE_PATTERNS: Final = tuple(pattern for pattern in CONTENT_PATTERNS if pattern not in _WEIGHT_PATTERNS)
"""What checkpoints of one training have in common: configuration, tokenizer, chat template."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What a checkpoint says about itself.

    Attributes:
        path: its folder.
        architecture: class name from its configuration (``LlamaForCausalLM``), empty if it names none.
        dtype: number type of its weights as its configuration says, empty if it does not.
        context_tokens: context window in tokens; None if its configuration does not say.
        weight_bytes: size of its weight files in bytes.
        parameter_count: numbers in its weights, as the headers of the files say.
        has_chat_template: whether conversations can be rendered.
        labels: class names of a sequence classifier, in order; empty for other models.
    """

    path: Path
    architecture: str
    dtype: str
    context_tokens: int | None
    weight_bytes: int
    parameter_count: int
    has_chat_template: bool
    labels: tuple[str, ...]


def _refuse(reason: str, message: str, path: Path) -> InferenceFailure:
    return InferenceFailure(message, reason=reason, code="FAILED_PRECONDITION", metadata={"path": str(path)})


def inspect_checkpoint(path: str | Path) -> CheckpointFacts:
    """Check a checkpoint folder and read what it says about itself.

    Raises:
        InferenceFailure: CHECKPOINT_NOT_FOUND, CHECKPOINT_INVALID, SAFETENSORS_MISSING, CHECKPOINT_INCOMPLETE,
            CHECKPOINT_CORRUPT, REMOTE_CODE_REFUSED or TOKENIZER_MISSING.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InferenceFailure(
            f"there is no checkpoint folder {folder}",
            reason="CHECKPOINT_NOT_FOUND",
            code="NOT_FOUND",
            metadata={"path": str(folder)},
        )
    config = read_json(folder / "config.json")
    tokenizer_config = read_json(folder / "tokenizer_config.json", required=False)
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        if content.get("auto_map"):
            raise _refuse(
                "REMOTE_CODE_REFUSED",
                f"{folder / name} asks for code that comes with the checkpoint (auto_map); it is never run here. "
                "Use a checkpoint whose architecture is part of transformers",
                folder,
            )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise _refuse(
            "TOKENIZER_MISSING",
            f"{folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)}); save it next to the weights with "
            "tokenizer.save_pretrained",
            folder,
        )
    nested = config.get("text_config")
    text_config: dict[str, Any] = nested if isinstance(nested, dict) else config
    headers = weight_headers(folder)
    return CheckpointFacts(
        path=folder,
        architecture=next(iter(config.get("architectures") or ()), ""),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or ""),
        context_tokens=next((int(text_config[key]) for key in _CONTEXT_KEYS if text_config.get(key)), None),
        weight_bytes=sum(file.stat().st_size for file in headers),
        parameter_count=sum(tensor.element_count for header in headers.values() for tensor in header.values()),
        has_chat_template=bool(tokenizer_config.get("chat_template"))
        or any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")),
        labels=_labels(config),
    )


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """Read a JSON object; an absent optional file is empty.

    Raises:
        InferenceFailure: CHECKPOINT_INVALID.
    """
    if not required and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _refuse(
            "CHECKPOINT_INVALID", f"{path.parent} is not a checkpoint: it has no {path.name}", path.parent
        ) from error
    except (OSError, ValueError) as error:
        raise _refuse("CHECKPOINT_INVALID", f"{path} cannot be read as JSON: {error}", path.parent) from error
    if not isinstance(content, dict):
        raise _refuse("CHECKPOINT_INVALID", f"{path} must hold a JSON object", path.parent)
    return content


def weight_headers(folder: Path) -> Mapping[Path, Header]:
    """Return the folder's safetensors files, sorted by name, with their headers, after checking that all are whole.

    Raises:
        InferenceFailure: SAFETENSORS_MISSING, CHECKPOINT_INCOMPLETE or CHECKPOINT_CORRUPT.
    """
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        found = f"; {', '.join(pickled[:3])} would run code when opened and is not read" if pickled else ""
        raise _refuse(
            "SAFETENSORS_MISSING",
            f"{folder} holds no *.safetensors weights{found}. "
            "Save the model with save_pretrained(safe_serialization=True)",
            folder,
        )
    index = read_json(folder / "model.safetensors.index.json", required=False)
    wanted = set(index.get("weight_map", {}).values())
    missing = sorted(wanted - {file.name for file in files})
    if missing:
        raise _refuse(
            "CHECKPOINT_INCOMPLETE",
            f"{folder} lacks {len(missing)} of {len(wanted)} weight files: {', '.join(missing[:5])}. "
            "Was it still being written?",
            folder,
        )
    return {file: read_header(file) for file in files}


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    if not isinstance(names, dict):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=lambda key: (len(str(key)), str(key))))


def content_digest(*folders: str | Path, dtype: str = "", patterns: Sequence[str] = CONTENT_PATTERNS) -> str:
    """Return the SHA-256 (hex) over everything in the folders that decides a model's answers, and the dtype.

    Reads every weight file: call it outside the event loop.
    """
    return content_digests(*folders, dtype=dtype, patterns=patterns)[-1]


def content_digests(
    *folders: str | Path, dtype: str = "", patterns: Sequence[str] = CONTENT_PATTERNS
) -> tuple[str, ...]:
    """Return the ``content_digest`` of the first folder, of the first two together, and so on; each is read once."""
    digest = hashlib.sha256(f"dtype={dtype}\n".encode())
    digests = []
    for folder in folders:
        files = {file for pattern in patterns for file in Path(folder).glob(pattern) if file.is_file()}
        for file in sorted(files):
            digest.update(f"{file.name} {_file_sha256(file)}\n".encode())
        digests.append(digest.hexdigest())
    return tuple(digests)


def _file_sha256(file: Path) -> str:
    # One small buffer for the whole file: megabytes taken and given back again and again, in a thread for each
    # checkpoint, leave a service's heap that much larger.
    with file.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
