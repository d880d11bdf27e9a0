"""Runs in a peer's environment: Inspect AI over a file of items with its mock model, once, timed by itself.

Usage: ``python inspect_items.py ITEMS ANSWER RESULT [--display none|full] [--connections N]``. ITEMS are JSON lines
with ``id``, ``question`` and ``answer``; the mock model says ANSWER to everything. RESULT receives one JSON object:
items, seconds and CPU seconds of ``eval``, the highest resident memory in MiB, the score, and the version.
"""

import argparse
import importlib.metadata
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

_WARM_UP_ITEMS = 64


def main() -> None:
    """Warm up, measure, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("items", type=Path)
    parser.add_argument("answer")
    parser.add_argument("result", type=Path)
    parser.add_argument("--display", choices=("none", "full"), default="none")
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inspect-") as logs:
        _evaluate(arguments, logs, limit=_WARM_UP_ITEMS)
        began, began_cpu = time.perf_counter(), time.process_time()
        log = _evaluate(arguments, logs, limit=None)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    [score] = log.results.scores
    result = {
        "items": log.results.completed_samples,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "score": score.metrics["mean"].value,
        "version": importlib.metadata.version("inspect-ai"),
    }
    arguments.result.write_text(json.dumps(result), encoding="utf-8")


def _evaluate(arguments: argparse.Namespace, logs: str, *, limit: int | None) -> Any:
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample, json_dataset
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import exact
    from inspect_ai.solver import generate

    def sample(row: dict[str, Any]) -> Sample:
        return Sample(id=row["id"], input=f"Question: {row['question']}\nAnswer:", target=row["answer"])

    task = Task(dataset=json_dataset(str(arguments.items), sample), solver=generate(), scorer=exact())

    def output(*_: Any) -> ModelOutput:
        # With its usage, so that nothing is spent on counting tokens.
        said = ModelOutput.from_content("mockllm/model", arguments.answer)
        said.usage = ModelUsage(input_tokens=12, output_tokens=1, total_tokens=13)
        return said

    model = get_model("mockllm/model", custom_outputs=output, memoize=False)
    [log] = evaluate(
        task,
        model=model,
        display=arguments.display,
        log_dir=logs,
        limit=limit,
        max_connections=arguments.connections,
        max_samples=arguments.connections,
    )
    if log.status != "success":
        raise RuntimeError(f"Inspect AI ended with {log.status}: {log.error}")
    return log


if __name__ == "__main__":
    main()
