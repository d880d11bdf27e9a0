"""YAML files are read into plain values, and every complaint says where and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from services.evaluation.documents import parse_document, read_document, validate
from services.evaluation.errors import SpecificationError, SpecificationProblem


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: str


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    parts: tuple[Inner, ...] = ()


def complaint(text: str) -> str:
    with pytest.raises(SpecificationError) as caught:
        validate(Outer, parse_document(text, "box.yaml"))
    return caught.value.message


def test_words_that_yaml_1_1_takes_for_booleans_and_dates_stay_text() -> None:
    document = parse_document(
        "a: no\nb: yes\nc: 2024-01-01\nd: true\ne: 010\nf: 1.5\ng: ~\nh: '12'\ni: 1_000\nj: 0x1f\n", "f"
    )
    assert document.value == {
        "a": "no",
        "b": "yes",
        "c": "2024-01-01",
        "d": True,
        "e": 10,
        "f": 1.5,
        "g": None,
        "h": "12",
        "i": "1_000",
        "j": "0x1f",
    }


def test_a_misspelt_field_is_answered_with_file_line_path_and_nearest_name() -> None:
    text = "name: box\nparts:\n  - colour: red\n  - color: blue\n"
    message = complaint(text)
    assert "box.yaml:4: parts[1].color: unknown field; did you mean 'colour'?" in message
    assert "box.yaml:4: parts[1].colour: is missing" in message


def test_a_missing_field_at_the_top_is_reported_at_the_first_line() -> None:
    assert complaint("parts: []\n") == "box.yaml:1: name: is missing"


def test_a_wrong_type_shows_the_value() -> None:
    assert complaint("name: [1, 2]\n") == "box.yaml:1: name: Input should be a valid string (it is [1, 2])"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "box.yaml:2: name: 'name' is given twice"),
        ("name: a\nparts: [\n", "box.yaml:3: no valid YAML"),
        ("name: 'a\n", "box.yaml:2: no valid YAML"),
        ("- a\n", "box.yaml:1: the file must hold"),
        ("", "box.yaml:1: the file must hold"),
        ("name: !!python/object/apply:os.system [true]\n", "box.yaml:1: name: "),
        ("name: !!binary aGk=\n", "box.yaml:1: name: the type"),
        ("name: !custom x\n", "box.yaml:1: name: the type '!custom' is not allowed here"),
        ("name: !!int abc\n", "box.yaml:1: name: is no int: 'abc'"),
        ("? [a]\n: b\n", "box.yaml:1: a field's name must be text"),
        ("a: 1\n---\nb: 2\n", "box.yaml:2: no valid YAML"),
        ("name: a\n\tb: c\n", "no valid YAML"),
    ],
)
def test_what_is_no_plain_mapping_is_refused_with_its_line(text: str, expected: str) -> None:
    assert expected in complaint(text)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(SpecificationError, match=r"a\.yaml:1: the file is not UTF-8 \(byte 6\)"):
        read_document(path)


def test_a_missing_file_is_a_complaint_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(SpecificationError, match="cannot be read"):
        read_document(tmp_path / "none.yaml")


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(SpecificationError, match="too many or too deeply nested"):
        parse_document("\n".join(lines), "bomb.yaml")


def test_deep_nesting_is_stopped() -> None:
    with pytest.raises(SpecificationError, match=r"nested|no valid YAML"):
        parse_document("a: " + "[" * 5000 + "]" * 5000, "deep.yaml")


# JSON is YAML once characters beyond the first plane, which JSON escapes as two halves, are left out.
texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=8)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(texts, plain_values, max_size=5))
def test_whatever_json_can_say_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert parse_document(json.dumps(value), "f").value == value


def problems_of(text: str) -> tuple[SpecificationProblem, ...]:
    try:
        validate(Outer, parse_document(text, "f.yaml"))
    except SpecificationError as error:
        return error.problems
    return ()


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_model_or_complaints_with_lines(text: str) -> None:
    problems = problems_of(text)
    assert problems or isinstance(parse_document(text, "f.yaml").value, dict)
    assert all(str(problem).startswith(f"f.yaml:{problem.line}: ") and problem.line >= 1 for problem in problems)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["name", "parts", "nam", "part"]), plain_values, max_size=4))
def test_any_content_is_a_model_or_complaints_with_lines_of_the_file(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value)
    assert all(1 <= problem.line <= text.count("\n") + 1 for problem in problems_of(text))
