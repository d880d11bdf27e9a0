"""Reads safetensors files into memory of our own.

The safetensors library maps files into memory, and so does transformers: a file that is cut short while its model is
loaded, or at any time after, then ends the whole process (SIGBUS), and with it every checkpoint in it. A file that is
read can only be too short, which is an error of one load.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch

from services.inference.checkpoints import read_json
from services.inference.failures import InferenceFailure
from services.inference.safetensors_header import TensorEntry, read_header

WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
_READ_BYTES: Final = 1 << 30
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights that transformers would: those of the index if there is one, else ``model.safetensors``.

    Raises:
        InferenceFailure: CHECKPOINT_CORRUPT, CHECKPOINT_INCOMPLETE or CHECKPOINT_CHANGED.
    """
    index = read_json(folder / INDEX_FILE, required=False)
    names = sorted(set(index.get("weight_map", {}).values())) or [WEIGHTS_FILE]
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        weights.update(read_tensors(folder / name))
    return weights


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of one file.

    Raises:
        InferenceFailure: CHECKPOINT_CORRUPT, CHECKPOINT_INCOMPLETE or CHECKPOINT_CHANGED.
    """
    try:
        header = read_header(file)
        with file.open("rb", buffering=0) as stream:
            return {name: _read_tensor(file, stream.fileno(), entry) for name, entry in header.items()}
    except FileNotFoundError as error:
        raise InferenceFailure(
            f"{file.parent} has no {file.name}; save the model with save_pretrained",
            reason="CHECKPOINT_INCOMPLETE",
            code="FAILED_PRECONDITION",
            metadata={"path": str(file.parent)},
        ) from error


def _read_tensor(file: Path, descriptor: int, entry: TensorEntry) -> torch.Tensor:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise InferenceFailure(
            f"{file} holds numbers of type {entry.dtype}, which this engine cannot read",
            reason="CHECKPOINT_CORRUPT",
            code="FAILED_PRECONDITION",
            metadata={"path": str(file.parent), "dtype": entry.dtype},
        )
    content = torch.empty(entry.end - entry.start, dtype=torch.uint8)
    view, at = memoryview(cast(Any, content.numpy())), 0
    while at < len(view):
        count = os.preadv(descriptor, [view[at : at + _READ_BYTES]], entry.start + at)
        if count == 0:
            raise InferenceFailure(
                f"{file} became shorter while it was read; write checkpoints to a folder that then stays as it is",
                reason="CHECKPOINT_CHANGED",
                code="FAILED_PRECONDITION",
                metadata={"path": str(file.parent)},
            )
        at += count
    return content.view(dtype).reshape(entry.shape)
