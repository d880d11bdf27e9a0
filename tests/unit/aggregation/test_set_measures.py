"""Which figures a task's results have, and of which items."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.aggregation import set_measures
from services.aggregation.estimation import RunTally
from services.aggregation.measures.set_figures import Figure, ResampleBudget, Values
from services.aggregation.records import Cost, Failed, Observation, ResultKey, Scored
from services.aggregation.set_measures import SetMeasure

THEIRS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "reference" / "choice_verdicts.json").read_text(encoding="utf-8")
)


def seen(item: int, outcome: Scored | Failed | dict[str, float], sample: int = 0, **groups: str) -> Observation:
    judged = Scored(outcome) if isinstance(outcome, dict) else outcome
    return Observation(ResultKey("t", f"{item:05}", sample), judged, groups, Cost(), False)


def measures(*observations: Observation) -> dict[tuple[str, str], SetMeasure]:
    tally = RunTally(with_sets=True)
    tally.add(observations)
    tally.finish()
    return {(each.name, each.group): each for each in tally.set_measures(0.95)}


def test_bias_scores_are_the_harnesss() -> None:
    # Crafted answers to the public rows, four in a row of one template: ambiguous and disambiguated by turns.
    conditions = ("ambig", "disambig", "ambig", "disambig")
    rows = [
        seen(number, {"biased": biased, "counter_biased": named - biased}, context_condition=conditions[number % 4])
        for number, (_, biased, named) in enumerate(THEIRS["bbq"])
    ]
    found = measures(*rows)
    theirs = THEIRS["bbq_scores"]
    assert found["bias_ambiguous", ""].value == pytest.approx(theirs["amb_bias_score"])
    assert found["bias_disambiguated", ""].value == pytest.approx(theirs["disamb_bias_score"])
    assert found["bias_ambiguous", ""].item_count == found["bias_disambiguated", ""].item_count == 600
    assert found["bias_ambiguous", ""].interval is not None
    assert len(found) == 2


def test_each_group_has_its_own_figure_but_not_by_what_defines_it() -> None:
    both = {"biased": 1.0, "counter_biased": 0.0}
    found = measures(
        seen(1, both, context_condition="ambig", category="Age"),
        seen(2, {"biased": 0.0, "counter_biased": 1.0}, context_condition="ambig", category="Religion"),
        seen(3, both, context_condition="disambig", category="Age"),
        seen(4, both),
    )
    assert {key: each.value for key, each in found.items()} == {
        ("bias_ambiguous", ""): 0.0,
        ("bias_ambiguous", "category=Age"): 1.0,
        ("bias_ambiguous", "category=Religion"): -1.0,
        ("bias_disambiguated", ""): 1.0,
        ("bias_disambiguated", "category=Age"): 1.0,
    }


def test_failed_items_and_items_without_the_metrics_are_no_part() -> None:
    sure = {"confidence": 0.75, "correct": 1.0}
    failed = Failed("TIMEOUT", counted_as={"confidence": 0.0, "correct": 0.0})
    found = measures(
        seen(1, sure),
        seen(2, {**sure, "correct": 0.0}),
        seen(3, failed),
        seen(4, {"correct": 1.0}),
        seen(5, sure, 0),
        seen(5, failed, 1),
    )
    [error] = found.values()
    assert (error.name, error.item_count, error.value) == ("calibration_error", 2, 0.25)
    assert error.excluded_count == 3


def test_what_is_left_out_is_counted_where_the_figure_is_about_it() -> None:
    both = {"biased": 1.0, "counter_biased": 0.0}
    found = measures(
        seen(1, both, context_condition="ambig", category="Age"),
        seen(2, Failed("TIMEOUT"), context_condition="ambig", category="Age"),
        seen(3, Failed("TIMEOUT"), context_condition="ambig", category="Religion"),
        seen(4, Failed("TIMEOUT"), context_condition="disambig", category="Age"),
    )
    assert {key: (each.item_count, each.excluded_count) for key, each in found.items()} == {
        ("bias_ambiguous", ""): (1, 2),
        ("bias_ambiguous", "category=Age"): (1, 1),
    }


def test_a_figure_that_cannot_be_computed_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(_values: Values, _level: float, _budget: ResampleBudget) -> Figure | None:
        raise ValueError("beyond what the figure is defined for")

    fake = set_measures.SetDefinition("impossible", ("nats",), impossible)
    monkeypatch.setattr(set_measures, "DEFINITIONS", (fake, *set_measures.DEFINITIONS))
    found = measures(*(seen(n, {"confidence": -0.5, "correct": 1.0, "nats": 1.0, "bytes": 2.0}) for n in range(3)))
    assert set(found) == {("corpus_bits_per_byte", ""), ("corpus_byte_perplexity", "")}


def test_groups_share_what_whole_sets_leave_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    # For three figures of 40 to 120 items: the whole sets of both tasks, and one group.
    monkeypatch.setattr("services.aggregation.estimation.ResampleBudget", lambda: ResampleBudget(3_500_000))
    tally = RunTally(with_sets=True)
    for task in ("t", "u"):
        answers = [seen(n, {"confidence": 0.5, "correct": n % 2}, area="abc"[n // 40]) for n in range(120)]
        tally.add([replace(each, key=replace(each.key, task=task)) for each in answers])
    tally.finish()
    with_interval = [(each.task, each.group) for each in tally.set_measures(0.95) if each.interval is not None]
    assert with_interval == [("t", ""), ("u", ""), ("t", "area=a")]
    assert len(list(tally.set_measures(0.95))) == 8


def test_a_whole_set_has_its_interval_whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.aggregation.estimation.ResampleBudget", lambda: ResampleBudget(1))
    tally = RunTally(with_sets=True)
    tally.add([seen(n, {"confidence": 0.5, "correct": n % 2}, area="ab"[n // 60]) for n in range(120)])
    tally.finish()
    has_interval = {each.group: each.interval is not None for each in tally.set_measures(0.95)}
    assert has_interval == {"": True, "area=a": False, "area=b": False}


def test_a_small_group_has_a_calibration_error_without_an_interval() -> None:
    answers = [seen(n, {"confidence": 0.5, "correct": n % 2}, area="few" if n < 29 else "many") for n in range(60)]
    found = measures(*answers)
    assert {key[1]: each.interval is not None for key, each in found.items()} == {
        "": True,
        "area=few": False,
        "area=many": True,
    }


def test_a_corpus_weighs_texts_by_their_size() -> None:
    found = measures(
        seen(1, {"nats": 10.0, "bytes": 20.0, "words": 4.0, "tokens": 5.0}),
        seen(2, {"nats": 80.0, "bytes": 40.0, "words": 8.0, "tokens": 10.0}),
    )
    values = {name: each.value for (name, _), each in found.items()}
    assert values == {
        "corpus_bits_per_byte": pytest.approx(90 / 60 / math.log(2)),
        "corpus_byte_perplexity": pytest.approx(math.exp(90 / 60)),
        "corpus_word_perplexity": pytest.approx(math.exp(90 / 12)),
        "corpus_token_perplexity": pytest.approx(math.exp(90 / 15)),
    }
    for each in found.values():
        assert each.interval is not None
        assert each.interval.lower < each.value < each.interval.upper


def test_nothing_is_collected_unless_it_is_asked_for() -> None:
    tally = RunTally()
    tally.add([seen(1, {"confidence": 0.5, "correct": 1.0})])
    tally.finish()
    assert list(tally.set_measures(0.95)) == []
