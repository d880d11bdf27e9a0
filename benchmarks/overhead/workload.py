"""The items that everybody gets; for our fleet also suites, and a folder that passes for a checkpoint."""

import json
import struct
from pathlib import Path

ANSWER = "lol"
"""What the model says to everything: lm-evaluation-harness's dummy model has no other word."""

RIGHT_EVERY = 4
"""So many items are for one whose expected answer is ``ANSWER``: everybody's score has to be its inverse."""

DATA_FILE = "overhead_items.jsonl"
SUITE = "overhead"
WARM_UP_SUITE = "overhead_warm_up"

_TASK = """\
name: {name}
description: Trivial questions to a model that answers at once.
provenance:
  licence: Apache-2.0
  citation: Made by benchmarks/overhead
sources:
  - root: data
    files: {{test: {file}}}
    columns: [id, question, answer]
split: test
item_id: id
request: generate
format: plain
prompt: "Question: {{{{ question }}}}\\nAnswer:"
targets: answer
generation:
  max_tokens: 16
scorers:
  - scorer: exact_match
    parameters: {{strip: true}}
    metrics: [exact_match]
primary_metric: exact_match
"""
_SUITE = """\
name: {name}
description: Trivial questions to a model that answers at once.
tasks: [{name}]
"""


def write_items(file: Path, count: int, *, prefix: str = "q") -> None:
    """Write ``count`` items as JSON lines: ``id``, ``question``, ``answer``."""
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            answer = ANSWER if number % RIGHT_EVERY == 0 else str(number)
            row = {"id": f"{prefix}{number}", "question": f"What is the {prefix} number {number}?", "answer": answer}
            lines.write(json.dumps(row) + "\n")


def expected_score(count: int) -> float:
    """Return the share of right answers among the first ``count`` items."""
    return -(-count // RIGHT_EVERY) / count


def write_suites(folder: Path) -> Path:
    """Write the definitions of both suites, and return their folder."""
    for kind in ("suites", "tasks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name, file in ((SUITE, DATA_FILE), (WARM_UP_SUITE, f"warm_up_{DATA_FILE}")):
        (folder / "tasks" / f"{name}.yaml").write_text(_TASK.format(name=name, file=file), encoding="utf-8")
        (folder / "suites" / f"{name}.yaml").write_text(_SUITE.format(name=name), encoding="utf-8")
    return folder


def write_checkpoint(folder: Path) -> Path:
    """Write a folder that passes for a checkpoint; its one tensor is never read."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    return folder
