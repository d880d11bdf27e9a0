"""The embedded guard's model with its adapter merged, as a folder that transformers loads."""

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoTokenizer

from services.inference.adapters import inspect_adapter
from services.inference.checkpoints import inspect_checkpoint
from services.inference.engines.adapter_merge import merge_adapter


def save_merged(encoder: Path, guard: Path, folder: Path) -> None:
    """Write the merged encoder, its tokenizer and head.safetensors into a folder.

    Args:
        encoder: folder of the base encoder.
        guard: folder of the head and adapter.
        folder: where to write.
    """
    model: Any = AutoModel.from_pretrained(encoder, local_files_only=True)
    merge_adapter(model, inspect_adapter(guard, inspect_checkpoint(encoder))).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder, local_files_only=True).save_pretrained(folder)
    shutil.copy(guard / "head.safetensors", folder)
