"""Rubrics: what one may say, where they come from, and that their digest covers all of it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.runtime.errors import NotFoundError, StartupError
from services.scoring.judges.library import open_library
from services.scoring.judges.rubric import Rubric

SINGLE: dict[str, Any] = {
    "name": "r",
    "version": "1",
    "kind": "single",
    "description": "d",
    "task": "t",
    "criteria": "c",
    "scale": (1, 5),
    "pass_from": 4.0,
}
PAIRWISE: dict[str, Any] = {**SINGLE, "kind": "pairwise", "scale": None, "pass_from": None}


def test_the_bundled_rubrics_are_there() -> None:
    library = open_library()
    assert library.names == ("correctness", "preference", "quality")
    assert list(library.find("quality").words.items()) == [(str(each), float(each)) for each in range(1, 6)]
    assert library.find("correctness").words == {"correct": 1.0, "incorrect": 0.0}
    assert library.find("preference").words == {"A": 1.0, "B": 0.0, "tie": 0.5}
    with pytest.raises(NotFoundError, match="did you mean 'quality'"):
        library.find("qualty")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scale": (0, 10)}, "within 0 and 9"),
        ({"scale": (3, 3)}, "lower to a higher"),
        ({"scale": None}, "either a scale or verdicts"),
        ({"verdicts": {"good": 1.0}}, "either a scale or verdicts"),
        ({"scale": None, "verdicts": {"good": 1.0, "goodish": 0.0}}, "begins with verdict 'good'"),
        ({"scale": None, "verdicts": {"good": 1.0, "fine": 1.0}}, "all have one value"),
        ({"scale": None, "verdicts": {"very good": 1.0, "bad": 0.0}}, "pattern"),
        ({"pass_from": None}, "pass_from must be above 1"),
        ({"pass_from": 1.0}, "pass_from must be above 1"),
        ({"pass_from": 6.0}, "at most 5"),
        ({"kind": "pairwise"}, "a pairwise rubric has no scale"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_cannot_be_judged_by_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Rubric.model_validate(SINGLE | change)


def test_every_part_of_a_rubric_is_in_its_digest() -> None:
    changes: dict[str, Any] = {
        "name": "s",
        "version": "2",
        "description": "other",
        "task": "other",
        "criteria": "other",
        "reference": "required",
        "scale": (1, 6),
        "pass_from": 3.0,
        "ties": False,
        "reasoning": False,
        "max_tokens": 5,
    }
    assert set(changes) | {"kind", "verdicts"} == set(Rubric.model_fields)
    digests = {Rubric.model_validate(SINGLE | {name: value}).digest for name, value in changes.items()}
    digests |= {Rubric.model_validate(each).digest for each in (SINGLE, PAIRWISE)}
    digests.add(Rubric.model_validate(SINGLE | {"scale": None, "verdicts": {"5": 5.0, "1": 1.0}}).digest)
    assert len(digests) == len(changes) + 3


def test_a_folder_adds_rubrics(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nversion: '1'\nkind: single\ndescription: d\ntask: t\ncriteria: c\nscale: [0, 3]\npass_from: 2\n"
    )
    assert open_library([tmp_path]).find("own").bounds == (0.0, 3.0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: quality\nkind: [", "is no YAML file"),
        ("- a list", "Input should be a valid dictionary"),
        ("name: own\nversion: 1\n", "version: Input should be a valid string"),
        ((open_library.__globals__["BUNDLED_FOLDER"] / "quality.yaml").read_text(), "a rubric 'quality' already"),
    ],
)
def test_a_rubric_that_cannot_be_used_stops_the_service(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(StartupError, match=problem) as failed:
        open_library([tmp_path])
    assert "x.yaml" in failed.value.message


def test_a_folder_that_is_not_there_stops_the_service(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="EVALFLEET_RUBRIC_DIRS"):
        open_library([tmp_path / "none"])
