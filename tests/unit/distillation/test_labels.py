"""A teacher's labels: what a student learns of each, and that none is paid for twice."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from evalfleet.results import Guard, GuardReference
from hypothesis import given
from hypothesis import strategies as st

from services.distillation.errors import LabelsFileError
from services.distillation.labels import LabelsFile, TeacherLabel
from services.distillation.teacher import guard_digest

UNSAFE = TeacherLabel("unsafe", 0.9, 0.4)


@pytest.mark.parametrize(
    ("label", "target"),
    [
        (TeacherLabel("unsafe", 0.5, 0.5), 0.5),
        (TeacherLabel("unsafe", 0.9, 0.5), 0.9),
        (TeacherLabel("unsafe", 0.3, 0.3), 0.5),
        (TeacherLabel("safe", 0.3, 0.6), 2 / 9),  # odds 3/7 against 3/2
        (TeacherLabel("unsafe"), 1.0),
        (TeacherLabel("safe"), 0.0),
        (TeacherLabel("safe", 0.2, None), 0.0),
        (TeacherLabel("unsafe", 0.2, 1.0), 1.0),
        # A guard may have other reasons than its probability.
        (TeacherLabel("unsafe", 0.2, 0.5), 1.0),
        (TeacherLabel("safe", 0.8, 0.5), 0.0),
    ],
)
def test_the_teachers_threshold_lies_in_the_middle(label: TeacherLabel, target: float) -> None:
    assert label.target == pytest.approx(target)


@given(st.floats(0, 1), st.floats(0.001, 1))
def test_a_target_is_on_the_side_of_the_decision(probability: float, threshold: float) -> None:
    label = TeacherLabel("unsafe" if probability >= threshold else "safe", probability, threshold)
    assert 0 <= label.target <= 1
    assert (label.target >= 0.5) == label.is_unsafe


def test_labels_are_there_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "labels.jsonl"
    with LabelsFile(file, "teacher") as labels:
        labels.add("a", UNSAFE)
        labels.add("b", TeacherLabel("controversial"))
    with LabelsFile(file, "teacher") as labels:
        assert (len(labels), labels.get("a"), labels.get("c")) == (2, UNSAFE, None)
        label = labels.get("b")
        assert label is not None
        assert label.is_unsafe is None


def test_another_teachers_labels_are_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    with LabelsFile(file, "one") as labels:
        labels.add("a", UNSAFE)
    with LabelsFile(file, "two") as labels:
        assert labels.get("a") is None
        labels.add("a", TeacherLabel("safe"))
    with LabelsFile(file, "one") as labels:
        assert labels.get("a") == UNSAFE


def test_a_label_is_in_the_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    with LabelsFile(file, "teacher") as labels:
        labels.add("a", UNSAFE)
        [line] = file.read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["decision"] == "unsafe"


def test_what_an_interruption_left_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    with LabelsFile(file, "teacher") as labels:
        labels.add("a", UNSAFE)
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:20])
    with LabelsFile(file, "teacher") as labels:
        labels.add("b", UNSAFE)
    with LabelsFile(file, "teacher") as labels:
        assert len(labels) == 2


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '{"text": "a"}',
     '{"text": "a", "teacher": "t", "decision": "safe", "probability": 2, "threshold": 0}',
     '{"text": "a", "teacher": "t", "decision": "safe", "probability": NaN, "threshold": 0}'],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "labels.jsonl"
    with LabelsFile(file, "t") as labels:
        labels.add("a", UNSAFE)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(LabelsFileError, match="line 2 is no label"):
        LabelsFile(file, "t")


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsFileError, match="cannot be used"):
        LabelsFile(tmp_path, "t")


def test_a_probability_of_one_stays_a_number() -> None:
    assert math.isfinite(TeacherLabel("unsafe", 1.0, 0.001).target)


@pytest.mark.parametrize("field", ["weights_digest", "template_digest", "calibration_digest", "engine", "dtype"])
def test_labels_are_kept_by_all_that_decides_a_teachers_verdicts(field: str) -> None:
    reference = GuardReference("guards/large", "w", "t", "c", "e", "d")
    teacher = Guard("guards/large", "Large.", reference, (), (), 0.4, None)
    renamed = replace(teacher, name="guards/other", reference=replace(reference, name="guards/other"))
    assert guard_digest(renamed) == guard_digest(teacher)
    changed = replace(teacher, reference=replace(reference, **{field: "other"}))
    assert guard_digest(changed) != guard_digest(teacher)
