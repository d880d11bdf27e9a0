"""Hand-checked rows of each public set: the whole prompt, the scored texts and the right answer."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import ChatPrompt, Item, Message, PlainPrompt
from services.evaluation.loading import load_task

EXPECTED: list[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("public_rows.yaml").read_text(encoding="utf-8")
)

THEIR_PROMPTS: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[2] / "reference" / "prompt_digests.json").read_text(encoding="utf-8")
)


def rows_with(field: str) -> list[Any]:
    return [pytest.param(row, id=f"{row['task']}-{row['row']}") for row in EXPECTED if field in row]


def item_at(catalog: Catalog, public_data: DataRoots, task: str, row: int) -> Item:
    items = load_task(catalog.task(task), public_data).items()
    return next(item for item in items if isinstance(item, Item) and item.row_number == row)


@pytest.mark.parametrize("expected", rows_with("contexts"))
def test_a_multiple_choice_row(catalog: Catalog, public_data: DataRoots, expected: dict[str, Any]) -> None:
    item = item_at(catalog, public_data, expected["task"], expected["row"])
    assert item.multiple_choice is not None
    choices = item.multiple_choice.choices
    contexts = expected["contexts"]
    if len(contexts) == 1:
        contexts = contexts * len(choices)
    assert [choice.context for choice in choices] == [PlainPrompt(context) for context in contexts]
    assert [choice.continuation for choice in choices] == expected["continuations"]
    assert list(item.multiple_choice.gold_indices) == expected["gold"]
    assert (item.cluster or "").startswith(expected.get("cluster", ""))
    assert (item.cluster is None) is ("cluster" not in expected)


@pytest.mark.parametrize("expected", rows_with("prompt"))
def test_a_generation_row(catalog: Catalog, public_data: DataRoots, expected: dict[str, Any]) -> None:
    item = item_at(catalog, public_data, expected["task"], expected["row"])
    assert item.prompt == PlainPrompt(expected["prompt"])
    assert list(item.targets) == expected["targets"]


@pytest.mark.parametrize("expected", rows_with("user"))
def test_a_safety_row(catalog: Catalog, public_data: DataRoots, expected: dict[str, Any]) -> None:
    item = item_at(catalog, public_data, expected["task"], expected["row"])
    assert item.prompt == ChatPrompt((Message("user", expected["user"]),))
    assert item.groups == expected["groups"]


@pytest.mark.parametrize(
    ("row", "question", "target"),
    [
        (
            1,
            "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her "
            "friends every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck "
            "egg. How much in dollars does she make every day at the farmers' market?",
            "18",
        ),
        (
            2,
            "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in total does it take?",
            "3",
        ),
    ],
)
def test_a_gsm8k_row(catalog: Catalog, public_data: DataRoots, row: int, question: str, target: str) -> None:
    item = item_at(catalog, public_data, "gsm8k", row)
    assert isinstance(item.prompt, PlainPrompt)
    *examples, asked = item.prompt.text.split("\n\n")
    assert asked == f"Question: {question}\nAnswer:"
    assert len(examples) == 5
    assert examples[0] == (
        "Question: Mr. Sam shared a certain amount of money between his two sons, Ken and Tony. If Ken got $1750, and "
        "Tony got twice as much as Ken, how much was the money shared?\n"
        "Answer: Tony got twice $1750 which is 2*$1750 = $<<2*1750=3500>>3500\n"
        "The total amount shared was $1750+$3500 = $<<1750+3500=5250>>5250\n#### 5250"
    )
    assert all(example.startswith("Question: ") and "\nAnswer: " in example for example in examples)
    assert item.targets == (target,)


@pytest.mark.parametrize("name", sorted(THEIR_PROMPTS))
def test_every_row_is_asked_and_ended_as_the_harness_does(catalog: Catalog, public_data: DataRoots, name: str) -> None:
    task = catalog.task(name)
    ending = [list(task.spec.generation.stop), task.spec.generation.max_tokens]
    digests = []
    for item in load_task(task, public_data).items():
        assert isinstance(item, Item)
        assert isinstance(item.prompt, PlainPrompt)
        digests.append(hashlib.sha256(json.dumps([item.prompt.text, *ending]).encode()).hexdigest()[:8])
    assert digests == THEIR_PROMPTS[name]
    assert len(set(digests)) > 1
