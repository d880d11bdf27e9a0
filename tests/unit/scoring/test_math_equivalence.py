"""Mathematical equivalence against math-verify and against cases checked by hand."""

import json
import resource
from pathlib import Path
from typing import Any

import math_verify
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import grader, parser

from services.scoring import own_memory
from services.scoring.errors import InvalidScoreRequestError, ProcessorTimeError, TextTooLongError
from services.scoring.scorers import math_equivalence
from tests.unit.scoring.judging import judge


def equivalent(text: str, *targets: str, **parameters: Any) -> float:
    return judge("math_equivalence", text, *targets, **parameters).metrics["math_match"]


CASES = [
    (r"So it is $\frac{1}{2}$.", r"\frac{1}{2}", 1),
    ("The answer is 0.5", r"\frac{1}{2}", 1),
    ("The final answer is 1/2. I hope it is correct.", r"\frac12", 1),
    (r"$\boxed{0.333333}$", r"\frac{1}{3}", 1),
    (r"$\boxed{0.33}$", r"\frac{1}{3}", 0),
    (r"First $x=3$, so $\boxed{7}$", "7", 1),
    (r"$\boxed{\sqrt{8}}$", r"2\sqrt{2}", 1),
    (r"$\boxed{(x+1)^2}$", "x^2+2x+1", 1),
    (r"$\boxed{x^2+2x}$", "x^2+2x+1", 0),
    (r"$x = 5$", "5", 1),
    (r"$\boxed{\{3, 1, 2\}}$", r"\{1, 2, 3\}", 1),
    (r"$\boxed{(1, 2)}$", "(2, 1)", 0),
    (r"$x < 2$", "2 > x", 1),
    (r"$\begin{pmatrix} 1 & 2 \end{pmatrix}$", r"\begin{pmatrix} 1 & 2 \end{pmatrix}", 1),
    ("1,234 apples", "1234", 1),
    (r"$\boxed{50\%}$", "50", 1),
    ("I do not know.", "5", 0),
    ("", "5", 0),
]


@pytest.mark.parametrize(("text", "target", "value"), CASES)
def test_checked_by_hand(text: str, target: str, value: float) -> None:
    assert equivalent(text, target) == value


def test_agrees_with_math_verify(data_dir: Path) -> None:
    lines = (data_dir / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    rows = [(answer.replace("####", "The answer is"), answer.split("####")[1].strip()) for line in lines
            for answer in [json.loads(line)["answer"]]]  # fmt: skip
    verdicts = set()
    for (text, target), (_, other) in zip(rows, [*rows[1:], rows[0]], strict=True):
        for gold in (target, other):
            expected = math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(text))
            assert equivalent(text, gold) == expected
            verdicts.add(expected)
    assert verdicts == {True, False}


@pytest.mark.parametrize(("text", "target", "_"), CASES)
def test_agrees_with_math_verify_on_crafted_outputs(text: str, target: str, _: float) -> None:
    for gold in (target, "3", "x+1"):
        expected = math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(text))
        assert equivalent(text, gold) == expected


def test_any_target_counts_and_the_answer_is_what_was_read() -> None:
    score = judge("math_equivalence", r"it is $\boxed{\frac{3}{4}}$", "7", "0.75")
    assert (score.metrics["math_match"], score.extracted_answer) == (1.0, r"\frac{3}{4}")
    assert judge("math_equivalence", "nothing", "7").extracted_answer is None


def test_only_the_end_is_read() -> None:
    text = r"$\boxed{7}$" + " and so on" * 1000
    assert equivalent(text, "7") == 0
    assert equivalent(text, "7", window_characters=20_000) == 1


def test_a_target_that_is_no_mathematics_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidScoreRequestError) as caught:
        equivalent("7", "7", "")
    assert [violation.field for violation in caught.value.field_violations] == ["targets[1]"]


@pytest.mark.parametrize("text", ["$2^{9999999999}$", r"$\boxed{9^{9^{9^9}}}$", "$(x+1)^{5000}$"])
def test_expressions_that_take_forever_are_stopped(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equivalence, "LIMIT_SECONDS", 0.3)
    with pytest.raises(ProcessorTimeError):
        equivalent(text, "4")


@pytest.mark.parametrize("function", ["parse", "verify"])
def test_want_of_memory_is_no_mismatch(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = {"parse": (parser, "extract_target_from_pred"), "verify": (grader, "sympy_expr_eq")}[function]

    def want(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(*inner, want)
    with pytest.raises(MemoryError):
        equivalent("7", "7")


def test_an_error_of_the_engine_is_a_mismatch_still(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RecursionError

    monkeypatch.setattr(grader, "sympy_expr_eq", fail)
    assert equivalent("7", "8") == 0


def test_a_mismatch_of_a_process_without_memory_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep inside, the engine swallows what it lacks; a match needs nothing more."""
    monkeypatch.setattr(math_equivalence, "has_used_up_memory", lambda: True)
    assert equivalent("7", "7") == 1
    for target in ("8", ""):
        with pytest.raises(MemoryError):
            equivalent("7", target)


def test_memory_is_used_up_near_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, used_up in ((resource.RLIM_INFINITY, False), (1 << 50, False), (1 << 20, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert own_memory.has_used_up_memory() is used_up


def test_a_target_beyond_its_limit_is_refused() -> None:
    with pytest.raises(TextTooLongError):
        equivalent("1", "1+" * 6000 + "1")


@settings(max_examples=40)
@given(st.text(max_size=30) | st.text(r"$\{}()[]^_+-*/=<>0123456789.x,frac boxed", max_size=30))
def test_wild_texts_score_or_fail_typed(text: str) -> None:
    try:
        assert equivalent(text, "7") in (0.0, 1.0)
    except ProcessorTimeError:
        return
