"""LoRA adapters in peft's format, read without torch: what is accepted, and whether it fits its base checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.inference.checkpoints import CheckpointFacts, read_json, weight_headers
from services.inference.failures import InferenceFailure
from services.inference.safetensors_header import Header, read_header

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
ADAPTER_FILES: Final = (CONFIG_FILE, WEIGHTS_FILE)
_PREFIX: Final = "base_model.model."
_MAX_RANK: Final = 4096


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """An adapter that fits its base.

    Attributes:
        path: its folder.
        config: its adapter_config.json.
        header: its tensors.
    """

    path: Path
    config: Mapping[str, Any]
    header: Header


def inspect_adapter(path: str | Path, base: CheckpointFacts) -> AdapterFacts:
    """Check an adapter folder against the checkpoint that it shall be merged into.

    Raises:
        InferenceFailure: CHECKPOINT_NOT_FOUND, ADAPTER_INVALID, ADAPTER_UNSUPPORTED, ADAPTER_MISMATCH or
            CHECKPOINT_CORRUPT.
    """
    folder = Path(path)
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise _refuse(
                "ADAPTER_INVALID",
                f"{folder} holds no LoRA adapter: it has no {name}. Save it with peft's save_pretrained "
                "(safe_serialization=True)",
                folder,
            )
    config = read_json(folder / CONFIG_FILE)
    _check_kind(config, folder)
    header = read_header(folder / WEIGHTS_FILE)
    _check_shapes(header, base, folder)
    return AdapterFacts(folder, config, header)


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    kind = str(config.get("peft_type") or "none")
    if kind.upper() != "LORA":
        raise _refuse("ADAPTER_UNSUPPORTED", f"{folder} is an adapter of type {kind}; only LORA is supported", folder)
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= _MAX_RANK:
        raise _refuse(
            "ADAPTER_INVALID", f"{folder / CONFIG_FILE} has rank r={rank!r}; it must be 1 to {_MAX_RANK}", folder
        )
    if config.get("megatron_config") or config.get("layer_replication"):
        raise _refuse(
            "ADAPTER_UNSUPPORTED",
            f"{folder / CONFIG_FILE} uses megatron_config or layer_replication, which are not supported",
            folder,
        )


def _check_shapes(header: Header, base: CheckpointFacts, folder: Path) -> None:
    """Check that every pair of factors belongs to a matrix of the base, of the same size."""
    shapes = {name: entry.shape for file in weight_headers(base.path).values() for name, entry in file.items()}
    pairs = [name for name in header if ".lora_A." in name]
    if not pairs:
        raise _refuse("ADAPTER_INVALID", f"{folder / WEIGHTS_FILE} holds no LoRA factors", folder)
    for name in pairs:
        other = header.get(name.replace(".lora_A.", ".lora_B."))
        module = name.removeprefix(_PREFIX).partition(".lora_A.")[0]
        shape = shapes.get(f"{module}.weight")
        if shape is None:
            raise _mismatch(f"changes {module}, which {base.path} does not have", base, folder)
        down = header[name].shape
        if other is None or len(down) != 2 or len(other.shape) != 2 or len(shape) != 2 or down[0] != other.shape[1]:
            raise _refuse(
                "ADAPTER_INVALID", f"{folder / WEIGHTS_FILE}: the factors of {module} don't fit together", folder
            )
        # Some architectures (GPT-2) keep their matrices transposed.
        if (other.shape[0], down[1]) not in (shape, shape[::-1]):
            wanted = f"{other.shape[0]}×{down[1]}"
            raise _mismatch(f"needs {module} as {wanted}, in {base.path} it is {shape[0]}×{shape[1]}", base, folder)


def _mismatch(problem: str, base: CheckpointFacts, folder: Path) -> InferenceFailure:
    return _refuse(
        "ADAPTER_MISMATCH",
        f"the adapter {folder} was trained on another base ({base.architecture}): it {problem}",
        folder,
    )


def _refuse(reason: str, message: str, folder: Path) -> InferenceFailure:
    return InferenceFailure(
        message, reason=reason, code="FAILED_PRECONDITION", metadata={"path": str(folder)}, field="adapter_path"
    )
