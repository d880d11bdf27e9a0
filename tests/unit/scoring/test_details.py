"""What a scorer is told of an item beside its answers."""

import pytest
from evalfleet.scoring.v1 import scoring_pb2
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, JsonValue

from services.runtime.errors import FleetError
from services.scoring.contract import (
    MetricDescription,
    Output,
    Score,
    ScorerDescription,
    ScorerDetails,
    ScorerParameters,
    ScoringItem,
    TextOutput,
)
from services.scoring.details import require_details
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.messages import item_from_proto, scorer_to_proto
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.requirements import require_prompt


class Instruction(ScorerDetails):
    """One of several."""

    name: str = Field(description="Which.")


class LengthDetails(ScorerDetails):
    """Each type that the contract names."""

    length: int = Field(description="In characters.")
    tags: tuple[str, ...] = Field((), description="None counts.")
    tree: JsonValue = Field(None, description="Anything.")
    instructions: tuple[Instruction, ...] = Field((), description="Read by nobody.")
    arguments: dict[str, JsonValue] = Field({}, description="Read by nobody.")


class Length:
    """1 if the text has the length that the item's details say."""

    about = ScorerDescription(
        "length", "1", "Counts.", (MetricDescription("right", "1 if so."),), details=LengthDetails, reads_prompt=True
    )
    parameters_type = ScorerParameters

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        assert isinstance(output, TextOutput)
        details = require_details(self.about.name, item, LengthDetails)
        require_prompt(self.about.name, item)
        return Score({"right": float(len(output.text) == details.length)}, None)


REGISTRY = ScorerRegistry([Length(), *builtin_scorers()])


def score(scorer: str, details: dict[str, JsonValue], prompt: str = "Say it.") -> Score:
    """Score by way of the message, as the service does."""
    request = scoring_pb2.ScoreRequest(prompt=prompt)
    if details:
        json_format.ParseDict(details, request.details)
    return REGISTRY.bind(f"scorers/{scorer}", {}).score(item_from_proto(request), TextOutput("four"))


def complaints(scorer: str, details: dict[str, JsonValue], prompt: str = "Say it.") -> dict[str, str]:
    with pytest.raises(InvalidScoreRequestError) as caught:
        score(scorer, details, prompt)
    return {violation.field: violation.description for violation in caught.value.field_violations}


def test_details_reach_the_scorer_typed() -> None:
    assert score("length", {"length": 4}).metrics == {"right": 1.0}
    assert score("length", {"length": 5, "tags": ["a"], "instructions": [{"name": "b"}]}).metrics == {"right": 0.0}
    item = ScoringItem(details={"length": 4, "tree": {"a": [1, 0.5, None, {"b": [True]}]}, "arguments": {"n": 3}})
    found = require_details("length", item, LengthDetails)
    assert (found.tree, found.arguments) == ({"a": [1, 0.5, None, {"b": [True]}]}, {"n": 3})


def test_a_detail_of_none_is_absent() -> None:
    assert score("length", {"length": 4, "tags": None}).metrics == {"right": 1.0}
    assert complaints("length", {"length": None}).keys() == {"details.length"}


def test_every_wrong_detail_is_named() -> None:
    found = complaints("length", {"lenght": 4, "tags": [1], "instructions": [{"nam": "a", "name": "b"}]})
    assert found.keys() == {
        "details.length",
        "details.lenght",
        "details.tags.0",
        "details.instructions.0.nam",
    }
    assert found["details.lenght"] == "unknown detail; did you mean length?"
    assert complaints("length", {"length": 4.5}).keys() == {"details.length"}
    assert complaints("length", {"length": "4"}).keys() == {"details.length"}


def test_details_for_a_scorer_that_reads_none_are_refused() -> None:
    assert complaints("refusal", {"length": 4}) == {"details.length": "this scorer takes no details"}


def test_a_scorer_that_reads_the_prompt_needs_one() -> None:
    assert complaints("length", {"length": 4}, prompt="").keys() == {"prompt"}


def test_listing_says_which_details_a_scorer_takes() -> None:
    listed = scorer_to_proto(Length())
    assert [(each.name, each.type, each.HasField("default_value")) for each in listed.details] == [
        ("length", "number", False),
        ("tags", "list of string", True),
        ("tree", "any", True),
        ("instructions", "list of object", True),
        ("arguments", "object", True),
    ]
    assert listed.reads_prompt
    assert not scorer_to_proto(REGISTRY.find("scorers/refusal")).details


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["length", "tags", "tree", "instructions", "arguments", "x"]), JSON))
def test_any_details_are_read_or_refused(details: dict[str, JsonValue]) -> None:
    struct = struct_pb2.Struct()
    struct.update(details)
    request = scoring_pb2.ScoreRequest(details=struct, prompt="a")
    bound = REGISTRY.bind("scorers/length", {})
    refused: FleetError | None = None
    try:
        bound.score(item_from_proto(request), TextOutput("four"))
    except FleetError as error:
        refused = error
    if refused is not None:
        assert refused.reason == "INVALID_SCORE_REQUEST"
        assert all(violation.field.startswith("details") for violation in refused.field_violations)
