"""What a task tells its scorers of each item."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.details import MAX_BYTES
from services.evaluation.items import InvalidItem, Item
from services.evaluation.judging_specification import ScorerUse
from services.evaluation.loading import load_task


def items_of(
    write_task: Any, tmp_path: Path, details: dict[str, str], *rows: dict[str, Any]
) -> list[Item | InvalidItem]:
    """Load a task whose second scorer is told ``details``; rows have the columns ``question`` and ``extra``."""
    folder: Path = write_task(
        {
            "name": "sums",
            "description": "Sums.",
            "provenance": {"licence": "none", "citation": "none"},
            "sources": [{"files": {"test": "sums.jsonl"}, "columns": ["question", "extra"]}],
            "split": "test",
            "request": "generate",
            "prompt": "{{ question }}",
            "scorers": [
                {"scorer": "refusal", "metrics": ["refused"]},
                {"scorer": "checks", "details": details, "metrics": ["right"]},
            ],
            "primary_metric": "right",
        }
    )
    (tmp_path / "rows").mkdir()
    lines = [json.dumps({"question": f"q{number}", **row}) for number, row in enumerate(rows)]
    (tmp_path / "rows" / "sums.jsonl").write_text("\n".join(lines))
    task = Catalog([folder]).task("sums")
    return list(load_task(task, DataRoots((tmp_path / "rows",))).items())


def test_details_are_computed_from_the_row(write_task: Any, tmp_path: Path) -> None:
    details = {"asked": "question | upper", "arguments": "extra", "first": "extra.list[0]"}
    [item] = items_of(write_task, tmp_path, details, {"extra": {"list": [1, None, 0.5], "text": "é"}})
    assert isinstance(item, Item)
    assert item.details == (
        {},
        {"asked": "Q0", "arguments": {"list": [1, None, 0.5], "text": "é"}, "first": 1},
    )


def test_an_item_of_a_task_without_details_has_none(write_task: Any, tmp_path: Path) -> None:
    [item] = items_of(write_task, tmp_path, {}, {"extra": 1})
    assert isinstance(item, Item)
    assert item.details == ()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({}, "no"),
        ({"list": "\ud800"}, "no valid Unicode"),
        ({"list": {"\ud800": 1}}, "no valid Unicode"),
        ({"list": 2**53 + 1}, "would be rounded"),
        ({"list": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}, "nested more than 16 deep"),
        ({"list": ["x" * MAX_BYTES]}, "larger than"),
    ],
)
def test_a_row_whose_details_cannot_be_sent_is_invalid(write_task: Any, tmp_path: Path, extra: Any, says: str) -> None:
    good, bad = items_of(write_task, tmp_path, {"list": "extra.list"}, {"extra": {"list": 2**53}}, {"extra": extra})
    assert isinstance(good, Item)
    assert isinstance(bad, InvalidItem)
    assert says in bad.message


def test_uses_without_details_keep_their_digest_and_details_change_it() -> None:
    plain = ScorerUse.model_validate({"scorer": "s", "metrics": ["a"]})
    assert plain.model_dump(mode="json").keys() == {"scorer", "parameters", "parameters_from", "metrics"}
    told = ScorerUse.model_validate({"scorer": "s", "metrics": ["a"], "details": {"b": "c"}, "prompt": True})
    dumped = told.model_dump(mode="json")
    assert (dumped["details"], dumped["prompt"]) == ({"b": "c"}, True)
