"""Scorers by name, their parameters, and the digests that name them."""

import pytest

from services.runtime.errors import NotFoundError
from services.scoring import registry
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.errors import InvalidScoreRequestError, InvalidScorerNameError
from services.scoring.libraries import MISSING, library_version
from services.scoring.parameters import describe_fields
from services.scoring.registry import ScorerRegistry, builtin_scorers, reference_of

REGISTRY = ScorerRegistry(builtin_scorers())


class Constant:
    """A scorer whose description a test chooses."""

    parameters_type = ScorerParameters

    def __init__(self, version: str = "1", rules_digest: str = "") -> None:
        metrics = (MetricDescription("one", "Always 1."),)
        self.about = ScorerDescription("constant", version, "Gives 1.", metrics, rules_digest)

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        return Score({"one": 1.0}, None)


def test_an_unknown_scorer_suggests_the_nearest() -> None:
    with pytest.raises(NotFoundError) as caught:
        REGISTRY.find("scorers/exactmatch")
    assert caught.value.reason == "SCORER_NOT_FOUND"
    assert "exact_match" in caught.value.metadata["nearest"]


def test_a_name_outside_the_collection_is_refused() -> None:
    with pytest.raises(InvalidScorerNameError, match="scorers/"):
        REGISTRY.find("exact_match")


def test_every_wrong_parameter_is_named() -> None:
    wrong = {"patern": "a", "take": "frist", "ignore_case": 1.0, "group": 1.5, "regexes_to_ignore": ["("]}
    with pytest.raises(InvalidScoreRequestError) as caught:
        REGISTRY.bind("scorers/exact_match", wrong)
    violations = {violation.field: violation.description for violation in caught.value.field_violations}
    assert set(violations) == {
        "parameters.patern",
        "parameters.take",
        "parameters.ignore_case",
        "parameters.group",
        "parameters.regexes_to_ignore.0",
    }
    assert "did you mean pattern?" in violations["parameters.patern"]


@pytest.mark.parametrize(
    ("scorer", "parameters"),
    [
        ("exact_match", {"group": 1.0}),
        ("exact_match", {"pattern": "a", "group": 1.0}),
        ("exact_match", {"pattern": "(a)", "group": 0.0}),
        ("exact_match", {"pattern": "x" * 1001}),
        ("exact_match", {"regexes_to_ignore": ["a"] * 33}),
        ("multiple_choice", {"normalise": True}),
        ("numeric_answer", {"mode": "loose"}),
        ("numeric_answer", {"tolerance": -1.0}),
        ("numeric_answer", {"tolerance": float("nan")}),
        ("numeric_answer", {"tolerance": float("inf")}),
        ("refusal", {"window_characters": 0.0}),
        ("refusal", {"window_characters": "300"}),
    ],
)
def test_parameters_out_of_range_are_refused(scorer: str, parameters: dict[str, object]) -> None:
    with pytest.raises(InvalidScoreRequestError):
        REGISTRY.bind(f"scorers/{scorer}", parameters)


def test_the_digest_covers_the_parameters_that_are_used() -> None:
    plain = REGISTRY.bind("scorers/exact_match", {}).reference
    assert REGISTRY.bind("scorers/exact_match", {"ignore_case": False, "pattern": None}).reference == plain
    assert REGISTRY.bind("scorers/exact_match", {"ignore_case": True}).reference.digest != plain.digest
    assert REGISTRY.bind("scorers/numeric_answer", {"tolerance": 1.0}) == REGISTRY.bind(
        "scorers/numeric_answer", {"tolerance": 1}
    )


def test_the_digest_covers_version_and_rules() -> None:
    scorers = (Constant(), Constant(version="2"), Constant(rules_digest="ab"))
    digests = {reference_of(scorer, ScorerParameters()).digest for scorer in scorers}
    assert len(digests) == 3


def test_an_upgraded_library_is_another_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    def digests(version: str) -> dict[str, str]:
        monkeypatch.setattr(registry, "library_version", lambda _: version)
        return {each.about.name: reference_of(each, each.parameters_type()).digest for each in REGISTRY.scorers}

    before, after = digests("1"), digests("2")
    assert {name for name, digest in before.items() if after[name] != digest} == {
        "bleu",
        "chrf",
        "edit_distance",
        "ifeval",
        "json_schema",
        "math_equivalence",
        "numeric_answer",
        "regex_match",
    }


@pytest.mark.parametrize(
    ("scorer", "without", "using"),
    [
        ("exact_match", {"strip": True}, {"pattern": "a"}),
        ("exact_match", {"filters": [{"function": "lowercase"}]}, {"filters": [{"function": "regex"}]}),
        ("exact_match", {}, {"regexes_to_ignore": [","]}),
        ("contains", {}, {"word_boundary": True}),
    ],
)
def test_a_library_counts_where_the_parameters_use_it(
    scorer: str, without: dict[str, object], using: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for version in ("1", "2"):
        monkeypatch.setattr(registry, "library_version", lambda _, version=version: version)
        found[version] = [REGISTRY.bind(f"scorers/{scorer}", each).reference for each in (without, using)]
    assert found["1"][0] == found["2"][0]
    assert found["1"][1] != found["2"][1]


def test_every_library_that_scorers_name_is_installed() -> None:
    named = {name for each in REGISTRY.scorers for name in each.about.libraries}
    assert {name: library_version(name) for name in named if library_version(name) == MISSING} == {}
    assert library_version("no-such-distribution") == MISSING


def test_digests_stay_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are comparable while these hold. Change one only with the scorer's version, when its scores change."""
    monkeypatch.setattr(registry, "library_version", lambda _: "1")
    digests = {
        scorer.about.name: reference_of(scorer, scorer.parameters_type()).digest[:16] for scorer in REGISTRY.scorers
    }
    assert digests == {
        "bbq_bias": "8b812f931bf325b0",
        "bleu": "190fb00c106fdfa3",
        "choice_probabilities": "6e0daa160a3fe6ce",
        "chrf": "1071a6e9b1ff622d",
        "code_execution": "a743d25e7f867397",
        "contains": "1cd41b231578b5d3",
        "edit_distance": "427b897d6f74c9f9",
        "exact_match": "e3c29467024f5de8",
        "ifeval": "1ea84c56ddd7b5de",
        "json_schema": "170d220921d60157",
        "math_equivalence": "99b74b8e00e59f59",
        "multiple_choice": "1e4ff63ff2936898",
        "numeric_answer": "2b1d30fda63aa2aa",
        "perplexity": "4622019309460539",
        "quasi_exact_match": "f7415613a036cd26",
        "refusal": "871aed06fb141e38",
        "refusal_verdict": "58f90cbd1ca4fbff",
        "regex_match": "3987b279ec037f4d",
        "rouge": "7cb7438f119145d0",
        "token_f1": "f8c3f7aa2f6441b8",
        "unsafe_verdict": "dc70056abe9c3873",
    }


def test_every_parameter_is_described() -> None:
    for scorer in REGISTRY.scorers:
        for parameter in describe_fields(scorer.parameters_type):
            assert parameter.type in {"string", "number", "boolean", "object", "list of string", "list of object"}
            assert parameter.description.endswith(".")
            assert not parameter.is_required
