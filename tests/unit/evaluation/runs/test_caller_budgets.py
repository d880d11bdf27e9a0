"""The operator's file of limits: who has which budget, and what is wrong with a file."""

from pathlib import Path

import pytest

from services.evaluation.runs.budget import Budget
from services.evaluation.runs.caller_budgets import CallerBudget, CallerBudgets
from services.runtime.errors import StartupError

FILE = """\
callers:
  team/a: {items: 10}
  team/*: {tokens: 1000, usd: 0.5}
  team/nightly*: {engine_seconds: 60}
default: {items: 5}
"""


def read(tmp_path: Path, text: str) -> CallerBudgets:
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    return CallerBudgets.read(path)


def test_a_name_goes_before_patterns_and_long_patterns_before_short_ones(tmp_path: Path) -> None:
    budgets = read(tmp_path, FILE)
    assert budgets.of("team/a") == CallerBudget("team/a", Budget(items=10))
    assert budgets.of("team/ab") == CallerBudget("team/*", Budget(tokens=1000, cost_micro_usd=500_000))
    assert budgets.of("team/nightly-7") == CallerBudget("team/nightly*", Budget(engine_seconds=60))
    assert budgets.of("other") == CallerBudget("*", Budget(items=5))


def test_without_a_file_nobody_is_limited() -> None:
    assert not CallerBudgets.read(None).of("anybody").limit.is_limited


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("callers: {'te*am': {items: 1}}", "1: "),
        ("callers:\n  team: {itmes: 1}", "2: callers.team.itmes"),
        ("default: {items: 0}", "default.items"),
        ("default: {wall_seconds: 5}", "default.wall_seconds"),
    ],
)
def test_a_wrong_file_is_refused_with_its_lines(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(StartupError, match=problem) as caught:
        read(tmp_path, text)
    assert caught.value.reason == "CALLER_BUDGETS_INVALID"


def test_a_file_that_is_absent_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read"):
        CallerBudgets.read(tmp_path / "nothing.yaml")
