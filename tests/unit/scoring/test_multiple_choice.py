"""Multiple choice by log-likelihood."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.contract import ChoicesOutput, Score, ScoringItem, TextOutput
from services.scoring.errors import InvalidScoreRequestError, LogLikelihoodError
from services.scoring.scorers.multiple_choice import MultipleChoice, MultipleChoiceParameters


def judge(log_likelihoods: list[float], choices: list[str], *gold: int) -> Score:
    output = ChoicesOutput(tuple(log_likelihoods), tuple(choices))
    return MultipleChoice().score(MultipleChoiceParameters(), ScoringItem(gold_indices=gold), output)


@pytest.mark.parametrize(
    ("log_likelihoods", "choices", "gold", "acc", "acc_norm"),
    [
        ([-1.0, -2.0], ["yes", "no"], (0,), 1, 1),
        # -2/1 = -2 a character against -3/3 = -1: the longer choice wins once length counts.
        ([-2.0, -3.0], ["a", "abc"], (0,), 1, 0),
        ([-2.0, -3.0], ["a", "abc"], (1,), 0, 1),
        ([-2.0, -3.0], ["a", "abc"], (0, 1), 1, 1),
        ([-1.0, -1.0], ["a", "b"], (0,), 1, 1),  # the first of equals
        ([-1.0, -1.0], ["a", "b"], (1,), 0, 0),
        # Characters, not bytes: -5/2 = -2.5 loses to -2/1; by bytes -5/4 would win.
        ([-5.0, -2.0], ["éé", "a"], (1,), 1, 1),
        ([-math.inf, -900.0], ["a", "b"], (1,), 1, 1),
        ([0.0, -1.0], ["", "b"], (0,), 1, 0),  # an empty choice has no length to divide by
        ([1e-6, -1.0], ["a", "b"], (0,), 1, 1),  # rounding of a certain choice
    ],
)
def test_cases_checked_by_hand(
    log_likelihoods: list[float], choices: list[str], gold: tuple[int, ...], acc: float, acc_norm: float
) -> None:
    metrics = judge(log_likelihoods, choices, *gold).metrics
    assert (metrics["acc"], metrics["acc_norm"]) == (acc, acc_norm)


def test_length_in_bytes() -> None:
    assert judge([-5.0, -2.0], ["éé", "a"], 0).metrics == {"acc": 0.0, "acc_norm": 0.0, "acc_bytes": 1.0}


def test_the_answer_is_the_likeliest_choice() -> None:
    assert judge([-2.0, -1.0], ["red", "blue"], 0).extracted_answer == "blue"


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(max_value=0.0, allow_nan=False), st.text(min_size=1, max_size=9)), min_size=2, max_size=9
    ).filter(lambda pairs: any(value > -math.inf for value, _ in pairs)),
    st.data(),
)
def test_equals_numpys_argmax(pairs: list[tuple[float, str]], data: st.DataObject) -> None:
    gold = data.draw(st.integers(0, len(pairs) - 1))
    values = np.array([value for value, _ in pairs])
    lengths = np.array([float(len(choice)) for _, choice in pairs])
    score = judge([value for value, _ in pairs], [choice for _, choice in pairs], gold)
    assert score.metrics["acc"] == float(np.argmax(values) == gold)
    assert score.metrics["acc_norm"] == float(np.argmax(values / lengths) == gold)
    in_bytes = np.array([float(len(choice.encode("utf-8"))) for _, choice in pairs])
    assert score.metrics["acc_bytes"] == float(np.argmax(values / in_bytes) == gold)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.5])
def test_refuses_what_is_no_log_likelihood(wrong: float) -> None:
    with pytest.raises(LogLikelihoodError) as caught:
        judge([-1.0, wrong], ["a", "b"], 0)
    assert [violation.field for violation in caught.value.field_violations] == ["choices.log_likelihoods[1]"]


def test_refuses_to_choose_among_impossible_choices() -> None:
    with pytest.raises(LogLikelihoodError, match="every choice"):
        judge([-math.inf, -math.inf], ["a", "b"], 0)


@pytest.mark.parametrize(
    ("log_likelihoods", "choices", "gold", "field"),
    [
        ([-1.0], ["a", "b"], (0,), "choices"),
        ([-1.0], ["a"], (0,), "choices.choices"),
        ([], [], (), "choices.choices"),
        ([-1.0, -1.0], ["a", "b"], (), "gold_indices"),
        ([-1.0, -1.0], ["a", "b"], (0, 2), "gold_indices[1]"),
        ([-1.0, -1.0], ["a", "b"], (-1,), "gold_indices[0]"),
    ],
)
def test_names_the_field_that_does_not_fit(
    log_likelihoods: list[float], choices: list[str], gold: tuple[int, ...], field: str
) -> None:
    with pytest.raises(InvalidScoreRequestError) as caught:
        judge(log_likelihoods, choices, *gold)
    assert field in [violation.field for violation in caught.value.field_violations]


def test_needs_choices() -> None:
    with pytest.raises(InvalidScoreRequestError, match="set choices"):
        MultipleChoice().score(MultipleChoiceParameters(), ScoringItem(gold_indices=(0,)), TextOutput("a"))


def informed(log_likelihoods: list[float], unconditional: list[float], *gold: int) -> Score:
    output = ChoicesOutput(tuple(log_likelihoods), tuple("abc"[: len(log_likelihoods)]), tuple(unconditional))
    return MultipleChoice().score(MultipleChoiceParameters(), ScoringItem(gold_indices=gold), output)


def test_mutual_information_takes_what_the_question_makes_likelier() -> None:
    # The second choice is likely whatever is asked; the question raises the first.
    assert informed([-3.0, -2.0], [-6.0, -2.5], 0).metrics == {
        "acc": 0.0,
        "acc_norm": 0.0,
        "acc_bytes": 0.0,
        "acc_mutual_info": 1.0,
    }
    assert informed([-3.0, -2.0], [-4.0, -3.0], 0).metrics["acc_mutual_info"] == 1.0  # the first of equals
    assert informed([-math.inf, -2.0], [-1.0, -9.0], 1).metrics["acc_mutual_info"] == 1.0


def test_refuses_ratios_that_there_are_not() -> None:
    with pytest.raises(LogLikelihoodError) as caught:
        informed([-1.0, -2.0], [-1.0, -math.inf], 0)
    assert [each.field for each in caught.value.field_violations] == ["choices.unconditional_log_likelihoods[1]"]
    with pytest.raises(LogLikelihoodError, match="number at or below 0"):
        informed([-1.0, -2.0], [-1.0, math.nan], 0)
    with pytest.raises(InvalidScoreRequestError, match="has 1 for 2 choices"):
        informed([-1.0, -2.0], [-1.0], 0)
