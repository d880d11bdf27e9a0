"""docs/tasks.md shows a task that works, names every field, and lists every task."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import ChatPrompt, Item, Message
from services.evaluation.judging_specification import MetricUse, SafetyJudging, ScorerUse
from services.evaluation.loading import load_task
from services.evaluation.source_specification import Source
from services.evaluation.specification import Comparability, FewShot, Generation, Provenance, TaskSpec

GUIDE = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_example_is_a_task_that_works(write_task: Any) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL)
    folder: Path = write_task(yaml.safe_load(text))
    (folder / "tasks" / "capitals.yaml").write_text(text)
    (folder / "suites" / "data").mkdir()
    row = '{"country": "Kenya", "capital": "Nairobi", "continent": "Africa"}\n'
    (folder / "suites" / "data" / "capitals.jsonl").write_text(row)
    (suite,) = re.findall(r"    name: geography\n(?:    .*\n)+", GUIDE)
    (folder / "suites" / "geography.yaml").write_text(re.sub("^    ", "", suite, flags=re.MULTILINE))
    catalog = Catalog.load([folder])
    assert catalog.problems == ()
    capitals, geography = catalog.suite("geography").tasks
    assert (geography.name, geography.limit) == ("mmlu_high_school_geography", 50)
    item = load_task(capitals, DataRoots()).item(0)
    assert isinstance(item, Item)
    assert item.prompt == ChatPrompt(
        (
            Message("system", "Answer with one word."),
            Message("user", "What is the capital of Peru?"),
            Message("assistant", "Lima"),
            Message("user", "What is the capital of Kenya?"),
        )
    )
    assert (item.item_id, item.targets, item.groups) == ("Kenya", ("Nairobi", "NAIROBI"), {"continent": "Africa"})


@pytest.mark.parametrize(
    "model",
    [TaskSpec, Source, FewShot, Generation, ScorerUse, MetricUse, SafetyJudging, Comparability, Provenance],
)
def test_every_field_is_named(model: type[BaseModel]) -> None:
    names = {field.alias or name for name, field in model.model_fields.items()}
    assert {name for name in names if f"`{name}`" not in GUIDE} == set()


def test_every_task_is_listed(catalog: Catalog) -> None:
    families = {catalog.task(name).family for name in catalog.task_names}
    assert {family for family in families if f"`{family}`" not in GUIDE} == set()
    assert {name for name in catalog.suite_names if f"`{name}`" not in GUIDE} == set()
