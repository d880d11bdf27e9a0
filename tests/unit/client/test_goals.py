"""Gates and budgets as people write them."""

import contextlib

import pytest
from evalfleet.goals import Answer, Budget, Gate, Outcome, QuestionDecision, TaskDecision, outcome_of
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("gsm8k>=0.55", Gate("gsm8k", True, 0.55)),
        (" gsm8k >= 55% ", Gate("gsm8k", True, 0.55)),
        ("harmbench:unsafe<=.02", Gate("harmbench", False, 0.02, "unsafe")),
        ("a<=1e-2", Gate("a", False, 0.01)),
    ],
)
def test_a_gate_is_read(text: str, gate: Gate) -> None:
    assert Gate.parse(text) == gate
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize("text", ["", "gsm8k", "gsm8k=0.5", "gsm8k>0.5", ">=0.5", "gsm8k>=high", "gsm8k:>=0.5"])
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not TASK>=NUMBER"):
        Gate.parse(text)


@pytest.mark.parametrize("text", ["gsm8k>=55", "gsm8k>=-0.1", "gsm8k<=nan", "gsm8k<=101%"])
def test_a_threshold_lies_from_0_to_1(text: str) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("2usd", Budget(cost_micro_usd=2_000_000)),
        ("5000items,10min", Budget(items=5000, wall_seconds=600)),
        ("1.5Mtokens, 2h", Budget(tokens=1_500_000, wall_seconds=7200)),
        ("50 cents,30engine-seconds", Budget(cost_micro_usd=500_000, engine_seconds=30)),
        ("1e6tokens", Budget(tokens=1_000_000)),
    ],
)
def test_a_budget_is_read(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a number with one of the units"),
        ("2", "is not a number with one of the units"),
        ("2 euro", "is not a number with one of the units"),
        ("-2usd", "is not a number with one of the units"),
        ("0items", "leaves nothing to spend"),
        ("0.4items", "leaves nothing to spend"),
        ("0s", "leaves nothing to spend"),
        ("1h,5min", "limits wall_seconds twice"),
    ],
)
def test_what_is_no_budget_says_why(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Budget.parse(text)


@given(text=st.text(max_size=30))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    for parse in (Gate.parse, Budget.parse):
        with contextlib.suppress(ValueError):
            parse(text)


def decided(*answers: Answer) -> TaskDecision:
    questions = tuple(QuestionDecision(">=0.5", True, answer, None) for answer in answers)
    return TaskDecision("t", "m", questions, True, 0.5, 0.4, 0.6, 0.95, 10, 10, 100, 90, 0, False)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([Answer.PASSED, Answer.PASSED], Outcome.PASSED),
        ([Answer.PASSED, Answer.FAILED], Outcome.FAILED),
        ([Answer.UNDECIDED, Answer.FAILED], Outcome.FAILED),
        ([Answer.PASSED, Answer.UNDECIDED], Outcome.UNDECIDED),
        ([Answer.PASSED], Outcome.UNDECIDED),
        ([], Outcome.UNDECIDED),
    ],
)
def test_a_run_passes_if_each_of_its_gates_does(answers: list[Answer], outcome: Outcome) -> None:
    assert outcome_of([decided(each) for each in answers], gate_count=2) is outcome


def test_a_run_without_gates_passes_nothing() -> None:
    assert outcome_of([], gate_count=0) is Outcome.UNDECIDED
