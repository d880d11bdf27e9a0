"""JSON that fits a schema, against the package jsonschema, and schemas and texts that mean harm."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.scoring.contract import Score, ScoringItem, TextOutput
from services.scoring.errors import InvalidScoreRequestError, ProcessorTimeError, TextTooDeepError, TextTooLongError
from services.scoring.json_texts import MAX_DEPTH, NoJsonError, parse_json
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.scorers import json_schema
from tests.unit.scoring.judging import judge

REGISTRY = ScorerRegistry(builtin_scorers())
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def validate(text: str, schema: Any, **parameters: Any) -> tuple[float, float]:
    metrics = judge("json_schema", text, json_schema=schema, **parameters).metrics
    return metrics["valid_json"], metrics["matches_schema"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "Ada", "age": 36}', (1, 1)),
        (' {"name": "Ada"}\n', (1, 1)),
        ('{"name": "ada"}', (1, 0)),
        ('{"name": "Ada", "age": -1}', (1, 0)),
        ('{"name": "Ada", "age": 36.0}', (1, 1)),  # an integer by JSON Schema
        ('{"name": "Ada", "pet": 1}', (1, 0)),
        ("[]", (1, 0)),
        ('{"name": "Ada"', (0, 0)),
        ('Here: {"name": "Ada"}', (0, 0)),
        ("", (0, 0)),
        ("NaN", (0, 0)),
        ('{"name": "Ada", "age": -Infinity}', (0, 0)),
        ("9" * 5000, (0, 0)),
    ],
)
def test_checked_by_hand(text: str, expected: tuple[float, float]) -> None:
    assert validate(text, PERSON) == expected


def test_a_fenced_block_is_found_where_asked_for() -> None:
    text = 'Here you are:\n```json\n{"name": "Ada"}\n```\nAnything else?'
    assert validate(text, PERSON) == (0, 0)
    assert validate(text, PERSON, extract="fenced") == (1, 1)
    assert validate('{"name": "Ada"}', PERSON, extract="fenced") == (1, 1)
    score = judge("json_schema", text, json_schema=PERSON, extract="fenced")
    assert score.extracted_answer == '{"name": "Ada"}'


def with_details(text: str, details: dict[str, Any], **parameters: Any) -> Score:
    item = ScoringItem(details=details)
    return REGISTRY.bind("scorers/json_schema", parameters).score(item, TextOutput(text))


def test_an_items_own_schema_replaces_the_tasks() -> None:
    details = {"json_schema": {"enum": [[1, 2], 3]}}
    assert with_details("[1, 2]", details, json_schema=PERSON).metrics["matches_schema"] == 1
    assert with_details("3.0", details).metrics["matches_schema"] == 1
    assert with_details("4", details).metrics["matches_schema"] == 0


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "text"}, "is no schema"),
        ({"properties": {"a": {"minimum": "1"}}}, "is no schema"),
        ({"$ref": "#/$defs/missing"}, "refers to what is not in it"),
        ({"$ref": "https://example.com/schema.json"}, "refers to what is not in it"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"pattern": "("}, "is no schema"),
        ({"$schema": 5}, "names no draft"),
        ({"$schema": []}, "names no draft"),
        ({"$schema": {}}, "names no draft"),
        ({"$schema": "http://["}, "names no draft"),
        ({"$schema": None}, "is no schema"),
        ({"$id": "http://[", "$ref": "x"}, "cannot be applied|is no schema|refers to"),
    ],
)
def test_a_bad_schema_is_the_callers_mistake(schema: Any, said: str) -> None:
    with pytest.raises(InvalidScoreRequestError, match=said) as caught:
        validate('"a"', schema)
    assert [violation.field for violation in caught.value.field_violations] == ["parameters.json_schema"]


def test_without_a_schema_there_is_nothing_to_judge() -> None:
    with pytest.raises(InvalidScoreRequestError, match="give a schema"):
        judge("json_schema", "{}")


@pytest.mark.parametrize("text", ["[" * 200 + "]" * 200, '{"a":' * 101 + "1" + "}" * 101, "[" * 1_000_000])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(TextTooDeepError):
        validate(text, PERSON)


def test_brackets_in_strings_nest_nothing() -> None:
    assert parse_json('["' + "[" * 1000 + '", "\\"[", 1]') == ["[" * 1000, '"[', 1]
    assert validate(json.dumps("{[" * 500_000)[:999_000] + '"', {"type": "string"}) == (1, 1)


def test_a_text_beyond_a_megabyte_is_refused() -> None:
    with pytest.raises(TextTooLongError):
        validate("1" * 1_000_001, PERSON)


def _doubling(depth: int) -> dict[str, Any]:
    twice = {f"n{index}": {"allOf": [{"$ref": f"#/$defs/n{index - 1}"}] * 2} for index in range(1, depth + 1)}
    return {"$defs": {"n0": {"type": "integer"}, **twice}, "$ref": f"#/$defs/n{depth}"}


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("1", _doubling(40)),
        (json.dumps("a" * 60 + "b"), {"pattern": "(a|aa)+$"}),
        (json.dumps({"a" * 60 + "b": 1}), {"patternProperties": {"(a|aa)+$": False}}),
        (json.dumps([{"a": index} for index in range(5000)]), {"uniqueItems": True}),
    ],
)
def test_schemas_that_take_forever_are_stopped(text: str, schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_schema, "LIMIT_SECONDS", 0.1)
    with pytest.raises(ProcessorTimeError):
        validate(text, schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0]) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"]),
            "enum": st.lists(JSON, min_size=1, max_size=2),
            "minimum": st.integers(-2, 2),
            "maxLength": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "pattern": st.sampled_from(["^a", "b$"]),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["a", "^b"]), inner, max_size=1),
            "additionalProperties": inner | st.booleans(),
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "unevaluatedProperties": inner | st.booleans(),
        },
    ),
    max_leaves=4,
)


@given(document=JSON, schema=SCHEMAS)
def test_agrees_with_jsonschema(document: Any, schema: Any) -> None:
    expected = float(Draft202012Validator(schema).is_valid(document))
    assert validate(json.dumps(document), schema) == (1, expected)


@given(text=st.text(max_size=30) | st.text('{}[]",:12e.-\\u', max_size=20))
def test_wild_texts_are_json_where_python_says_so(text: str) -> None:
    try:
        parse_json(text)
        is_json = True
    except NoJsonError:
        is_json = False
    assert validate(text, {})[0] == is_json
    try:
        json.loads(text)
    except ValueError:
        assert not is_json


@given(schema=st.dictionaries(st.sampled_from(["$ref", "type", "items", "pattern", "$id", "$defs", "anyOf"]), JSON))
def test_wild_schemas_judge_or_fail_typed(schema: Any) -> None:
    try:
        assert validate('["a"]', schema)[0] == 1
    except InvalidScoreRequestError:
        return


def test_real_schemas_agree_with_jsonschema(data_dir: Path) -> None:
    """Schemas of Kubernetes' custom resources, each with the definition that holds it and with less and more."""
    verdicts = set()
    for name in ("keda.sh_scaledobjects", "keda.sh_triggerauthentications"):
        definition = yaml.safe_load((data_dir / "crds" / f"{name}.yaml").read_text(encoding="utf-8"))
        schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        documents: list[Any] = [
            {},
            {"spec": {}},
            {"spec": []},
            {"spec": {"scaleTargetRef": {"name": "a"}, "triggers": []}},
        ]
        for document in documents:
            expected = float(Draft202012Validator(schema).is_valid(document))
            assert validate(json.dumps(document), schema) == (1, expected)
            verdicts.add(expected)
    assert verdicts == {0.0, 1.0}


def test_the_limit_of_depth_is_below_what_python_can_read() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
