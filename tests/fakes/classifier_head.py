"""The folder of a random classifier head."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def write_head(folder: Path, *, labels: int = 3, hidden: int = 16, **described: Any) -> Path:
    """Write head.json and head.safetensors for an encoder; further entries of head.json by name."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(5)
    save_file({"weight": torch.randn(labels, hidden) * 3, "bias": torch.randn(labels)}, folder / "head.safetensors")
    described = {"labels": [f"l{i}" for i in range(labels)], "activation": "sigmoid", "max_tokens": 32, **described}
    (folder / "head.json").write_text(json.dumps(described))
    return folder
