"""Runs in a peer's environment: Inspect AI's ``match(location="exact")`` over a file of outputs, timed by itself.

Usage: ``python inspect_scorer.py OUTPUTS RESULT``. OUTPUTS are JSON lines with ``text`` and ``target``; the states that
the scorer reads are made before. RESULT receives one JSON object: items, seconds, CPU seconds, the score, and the
version.
"""

import argparse
import asyncio
import importlib.metadata
import json
import time
from pathlib import Path

from inspect_ai.model import ModelName, ModelOutput
from inspect_ai.scorer import CORRECT, Target, match
from inspect_ai.solver import TaskState

_WARM_UP_ITEMS = 100


def main() -> None:
    """Warm up, measure, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("outputs", type=Path)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.outputs.read_text(encoding="utf-8").splitlines()]
    asked = [(_state(number, row["text"]), Target(row["target"])) for number, row in enumerate(rows)]
    arguments.result.write_text(json.dumps(asyncio.run(_measure(asked))), encoding="utf-8")


async def _measure(asked: list[tuple[TaskState, Target]]) -> dict[str, object]:
    score = match(location="exact")
    for state, target in asked[:_WARM_UP_ITEMS]:
        await score(state, target)
    began, began_cpu = time.perf_counter(), time.process_time()
    scores = [await score(state, target) for state, target in asked]
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        "items": len(scores),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "score": sum(each is not None and each.value == CORRECT for each in scores) / len(scores),
        "version": importlib.metadata.version("inspect-ai"),
    }


def _state(number: int, text: str) -> TaskState:
    output = ModelOutput.from_content("mockllm/model", text)
    return TaskState(model=ModelName("mockllm/model"), sample_id=number, epoch=1, input="", messages=[], output=output)


if __name__ == "__main__":
    main()
