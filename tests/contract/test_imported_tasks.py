"""Task files of lm-evaluation-harness, imported: the evaluation service makes the prompts of its own tasks of them."""

import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evalfleet.plugins.lm_eval_tasks import import_task

from benchmarks.prompt_parity_peer import harness_rows
from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import Item, PlainPrompt, Prompt
from services.evaluation.loading import LoadedTask, load_task

DATA = Path(os.environ.get("EVALFLEET_DATA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data")
HARNESS_TASKS = Path(str(importlib.resources.files("lm_eval"))) / "tasks"
MOST_ROWS = 300
# Of the example split, as many as are used and one for an item that is among them.
EXAMPLE_ROWS = 6

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark rows in {DATA}")


@pytest.mark.parametrize(
    ("file", "ours", "split", "examples", "few_shot_count"),
    [
        ("gsm8k/gsm8k.yaml", "gsm8k", "test", "train", None),
        ("arc/arc_challenge.yaml", "arc_challenge", "test", None, None),
        ("piqa/piqa.yaml", "piqa", "validation", None, None),
        ("mmlu/default/mmlu_anatomy.yaml", "mmlu_anatomy", "test", "dev", 5),
        ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_mc1", "validation", None, None),
        ("commonsense_qa/default.yaml", "commonsenseqa", "validation", None, None),
        ("super_glue/boolq/default.yaml", "boolq", "validation", None, None),
    ],
)
def test_an_imported_task_asks_what_our_own_task_asks(
    tmp_path: Path, file: str, ours: str, split: str, examples: str | None, few_shot_count: int | None
) -> None:
    bundled = Catalog.load().task(ours)
    rows = harness_rows(ours, dict(bundled.constants), DATA)
    data = {each: _written(tmp_path / "data", each, rows[each]) for each in (split, examples) if each}
    imported = import_task(HARNESS_TASKS / file, data=data, few_shot_count=few_shot_count)
    folder = tmp_path / "suites"
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / f"{imported.name}.yaml").write_text(imported.text, encoding="utf-8")
    catalog = Catalog.load([folder])
    assert not catalog.problems
    found = load_task(catalog.task(imported.name), DataRoots((tmp_path / "data",)))
    expected = load_task(bundled, DataRoots((DATA,)))
    asked = _contents(found)
    assert len(asked) == len(found) > 50
    known = set(_contents(expected))
    assert [each for each in asked if each not in known] == []
    assert found.task.spec.generation == expected.task.spec.generation
    assert found.task.spec.truncation == expected.task.spec.truncation


def _written(folder: Path, split: str, rows: Any) -> str:
    folder.mkdir(exist_ok=True)
    limit = EXAMPLE_ROWS if split in ("train", "dev") else MOST_ROWS
    lines = [json.dumps(row) for _, row in zip(range(limit), rows, strict=False)]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{split}.jsonl"


def _contents(loaded: LoadedTask) -> list[str]:
    return [json.dumps(_content(item), sort_keys=True) for item in loaded.items() if isinstance(item, Item)]


def _content(item: Item) -> Mapping[str, Any]:
    if item.multiple_choice is None:
        # Our task says the number alone; the harness finds it when it compares.
        return {"context": _text(item.prompt), "target": item.targets[0].split("#### ")[-1]}
    choices = item.multiple_choice.choices
    return {
        "contexts": [_text(choice.context) for choice in choices],
        "continuations": [choice.continuation for choice in choices],
        "choices": [choice.text for choice in choices],
        "gold": list(item.multiple_choice.gold_indices),
    }


def _text(prompt: Prompt | None) -> str:
    assert isinstance(prompt, PlainPrompt)
    return prompt.text
