"""Runs in a peer's environment: lm-evaluation-harness's exact match over a file of outputs, timed by itself.

Usage: ``python lm_eval_scorer.py OUTPUTS RESULT``. OUTPUTS are JSON lines with ``text`` and ``target``; each goes
through ``process_results`` of a task, which is what the harness does with each item. RESULT receives one JSON object:
items, seconds, CPU seconds, the score, and the version.
"""

import argparse
import importlib.metadata
import json
import logging
import tempfile
import time
from pathlib import Path

_WARM_UP_ITEMS = 100
_TASK = """\
task: outputs
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: ""
doc_to_target: "{{{{target}}}}"
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""


def main() -> None:
    """Warm up, measure, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("outputs", type=Path)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    from lm_eval.tasks import TaskManager, get_task_dict

    with tempfile.TemporaryDirectory(prefix="lm-eval-") as folder:
        file = Path(folder) / "outputs.yaml"
        file.write_text(_TASK.format(file=json.dumps(str(arguments.outputs.resolve()))), encoding="utf-8")
        manager = TaskManager(include_path=folder, include_defaults=False)
        task = get_task_dict(["outputs"], manager)["outputs"]
        documents = list(task.test_docs())
    for document in documents[:_WARM_UP_ITEMS]:
        task.process_results(document, [document["text"]])
    began, began_cpu = time.perf_counter(), time.process_time()
    scores = [task.process_results(document, [document["text"]])["exact_match"] for document in documents]
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    result = {
        "items": len(scores),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "score": float(sum(scores)) / len(scores),
        "version": importlib.metadata.version("lm-eval"),
    }
    arguments.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
