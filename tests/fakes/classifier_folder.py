"""A folder that passes for a sequence classifier where no model library looks: a header, no tensors."""

import json
import struct
from pathlib import Path

from tests.fakes.classifier import write_guard_yaml

GUARD = """
name: mine
description: A classifier of somebody else's.
aspects: [response]
threshold: 0.7
taxonomy: mine
taxonomy_version: "1"
categories: {rude: {title: Rude}}
labels: {LABEL_0: safe, LABEL_1: rude}
"""


def write_classifier_folder(folder: Path) -> Path:
    """Write the checkpoint with its guard.yaml; it judges responses as ``rude`` or safe."""
    folder.mkdir(exist_ok=True)
    config = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("[PAD]")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    write_guard_yaml(folder, GUARD)
    return folder
