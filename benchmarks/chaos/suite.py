"""A suite of one task with as many small sums as are wanted."""

import json
import random
from pathlib import Path

SUITE = "sums"
TASK = "many_sums"

_SUITE_TEXT = f"""\
name: {SUITE}
description: Small sums, as many as were asked for.
tasks: [{TASK}]
"""
_TASK_TEXT = f"""\
name: {TASK}
description: Small sums, answered in a few words.
provenance:
  licence: Apache-2.0
  citation: Written for EvalFleet
sources:
  - root: bundled
    files: {{test: sums.jsonl}}
    columns: [question, answer]
split: test
item_id: question
request: generate
format: chat
prompt: "{{{{ question }}}}"
targets: answer
generation:
  max_tokens: 8
scorers:
  - scorer: numeric_answer
    parameters: {{mode: flexible}}
    metrics:
      - {{name: correct, from: numeric_match, description: 1 if the last number of the answer is right.}}
primary_metric: correct
"""


def write_suite(folder: Path, item_count: int) -> Path:
    """Write the suite with ``item_count`` different questions below ``folder``, and return that."""
    (folder / "suites" / "data").mkdir(parents=True)
    (folder / "tasks").mkdir()
    (folder / "suites" / f"{SUITE}.yaml").write_text(_SUITE_TEXT, encoding="utf-8")
    (folder / "tasks" / f"{TASK}.yaml").write_text(_TASK_TEXT, encoding="utf-8")
    side = 2
    while side * side < item_count:
        side += 1
    pairs = random.Random(0).sample([(first, second) for first in range(side) for second in range(side)], item_count)
    lines = (
        json.dumps({"question": f"How much is {first} plus {second}?", "answer": str(first + second)})
        for first, second in pairs
    )
    (folder / "suites" / "data" / "sums.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder
