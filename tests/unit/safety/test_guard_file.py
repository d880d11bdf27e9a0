"""guard.yaml: what it may say, and how its mistakes are explained."""

from pathlib import Path

import pytest

from services.safety.errors import GuardFileError
from services.safety.guard_file import check_labels, read_guard_file
from tests.fakes.classifier import write_guard_yaml

GOOD = """
name: toxic-bert
description: A classifier of somebody else's.
aspects: [response]
threshold: 0.7
taxonomy: toxic
taxonomy_version: "2"
categories:
  insult: {title: Insults}
  threat: {title: Threats, ailuminate: vcr}
labels: {LABEL_0: safe, LABEL_1: insult, bad: unsafe}
"""


def test_reads_what_labels_mean(tmp_path: Path) -> None:
    guard = read_guard_file(write_guard_yaml(tmp_path, GOOD))
    assert [guard.meaning(label) for label in ("LABEL_0", "LABEL_1", "threat", "bad", "other")] == [
        "safe",
        "insult",
        "threat",
        "unsafe",
        None,
    ]
    assert guard.category("threat").ailuminate_code == "vcr"
    assert guard.threshold == 0.7


def test_a_model_that_only_says_safe_or_unsafe_needs_no_categories(tmp_path: Path) -> None:
    content = "name: plain\ndescription: Plain.\naspects: [prompt]\nthreshold: 0.5\nlabels: {LABEL_1: unsafe}\n"
    guard = read_guard_file(write_guard_yaml(tmp_path, content))
    assert (guard.categories, guard.meaning("LABEL_1"), guard.meaning("other")) == ({}, "unsafe", None)


def test_a_measured_threshold_goes_first(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text('{"threshold": 0.41}')
    assert read_guard_file(write_guard_yaml(tmp_path, GOOD)).threshold == 0.41


@pytest.mark.parametrize(
    ("change", "explanation"),
    [
        (("threshold: 0.7", "treshold: 0.7"), "treshold: is no field, did you mean 'threshold'"),
        (("threshold: 0.7", ""), "threshold: is missing here and in calibration.json"),
        (("threshold: 0.7", "threshold: 0"), "threshold: Input should be greater than 0"),
        (("threshold: 0.7", "threshold: .nan"), "threshold: "),
        (("threshold: 0.7", "threshold: 0.7\nlater_windows: {margin: -1}"), "later_windows.margin: Input should be gr"),
        (("threshold: 0.7", "threshold: 0.7\nlater_windows: {margin: .nan}"), "later_windows.margin: "),
        (("threshold: 0.7", "threshold: 0.7\nlater_windows: {weight: 0}"), "later_windows.weight: Input should be gr"),
        (
            ("threshold: 0.7", "threshold: 0.7\nlater_windows: {weight: 1.5}"),
            "later_windows.weight: Input should be",
        ),
        (("threshold: 0.7", "threshold: 0.7\nmax_windows: 0"), "max_windows: Input should be gr"),
        (("LABEL_1: insult", "LABEL_1: insults"), "label 'LABEL_1' means 'insults', did you mean 'insult'"),
        (("insult: {title: Insults}", "safe: {title: Safe}"), "a category cannot be called 'safe'"),
        (("name: toxic-bert", "name: Toxic Bert"), "name: "),
        (("aspects: [response]", "aspects: [answer]"), "aspects.0: "),
        (("taxonomy: toxic", ""), "taxonomy: must be named, with its version, where there are categories"),
        (("{title: Insults}", "{titel: Insults}"), "categories.insult.titel: "),
        (("aspects: [response]", "aspects: [response"), "line 5, column 10: "),
        ((GOOD, "- a list"), "must hold a mapping"),
        ((GOOD, "\x00"), "is not YAML"),
    ],
)
def test_a_mistake_is_explained(tmp_path: Path, change: tuple[str, str], explanation: str) -> None:
    file = write_guard_yaml(tmp_path, GOOD.replace(*change))
    with pytest.raises(GuardFileError) as caught:
        read_guard_file(file)
    assert caught.value.message.startswith(str(file))
    assert explanation in caught.value.message


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"threshold": "high"}', '{"threshold": 2}'])
def test_a_broken_calibration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(GuardFileError, match="threshold"):
        read_guard_file(write_guard_yaml(tmp_path, GOOD))


def test_a_missing_file_says_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(GuardFileError, match="what the model's labels mean") as caught:
        read_guard_file(tmp_path / "guard.yaml")
    assert caught.value.reason == "GUARD_FILE_NOT_FOUND"


def test_labels_of_file_and_model_must_meet(tmp_path: Path) -> None:
    file = write_guard_yaml(tmp_path, GOOD)
    guard = read_guard_file(file)
    check_labels(file, guard, ("LABEL_0", "LABEL_1", "bad", "something else"))
    with pytest.raises(GuardFileError, match="no label 'bad', did you mean 'bat'"):
        check_labels(file, guard, ("LABEL_0", "LABEL_1", "bat"))
    silent = read_guard_file(write_guard_yaml(tmp_path, GOOD.replace("labels: {", "# {")))
    with pytest.raises(GuardFileError, match="say what the model's labels mean"):
        check_labels(file, silent, ("POSITIVE", "NEGATIVE"))
