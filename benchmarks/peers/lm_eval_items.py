"""Runs in a peer's environment: lm-evaluation-harness over a file of items with its dummy model, once, timed by itself.

Usage: ``python lm_eval_items.py ITEMS RESULT``. ITEMS are JSON lines with ``id``, ``question`` and ``answer``. RESULT
receives one JSON object: items, seconds and CPU seconds of ``simple_evaluate``, the highest resident memory in MiB, the
score, and the version.
"""

import argparse
import importlib.metadata
import json
import logging
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

_WARM_UP_ITEMS = 64
_TASK = """\
task: overhead
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 16
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


def main() -> None:
    """Warm up, measure, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("items", type=Path)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="lm-eval-") as folder:
        task = Path(folder) / "overhead.yaml"
        task.write_text(_TASK.format(file=json.dumps(str(arguments.items.resolve()))), encoding="utf-8")
        _evaluate(folder, limit=_WARM_UP_ITEMS)
        began, began_cpu = time.perf_counter(), time.process_time()
        found = _evaluate(folder, limit=None)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    result = {
        "items": found["n-samples"]["overhead"]["effective"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "score": found["results"]["overhead"]["exact_match,none"],
        "version": importlib.metadata.version("lm-eval"),
    }
    arguments.result.write_text(json.dumps(result), encoding="utf-8")


def _evaluate(folder: str, *, limit: int | None) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False)
    return simple_evaluate(model="dummy", tasks=["overhead"], task_manager=manager, limit=limit)


if __name__ == "__main__":
    main()
