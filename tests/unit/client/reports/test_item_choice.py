"""Which items a report embeds."""

from dataclasses import replace

import pytest
from evalfleet.item_results import ItemFailure, ItemResult, ItemUsage
from evalfleet.reports import ReportFacts
from evalfleet.reports.facts import ItemOutcome, RunFacts
from evalfleet.reports.item_choice import MOST_CHARACTERS, ItemChoice, outcome_of, shares_of


def make(item: str, value: float | None, *, task: str = "gsm8k", index: int = 0, output: str = "x") -> ItemResult:
    metric = "exact_match" if task == "gsm8k" else "unsafe"
    return ItemResult(
        run="runs/r",
        task=task,
        item=item,
        sample=0,
        draw_index=index,
        groups={},
        metrics={} if value is None else {metric: value},
        failures=(ItemFailure("TIMEOUT", ""),) if value is None else (),
        extracted_answer=None,
        prompt="",
        output=output,
        targets=(),
        judges=(),
        model_digest="",
        usage=ItemUsage(),
        truncated=False,
        complete_time=None,
    )


def chosen(facts: RunFacts, results: list[ItemResult], most: int) -> list[str]:
    choice = ItemChoice(facts, most)
    for each in results:
        choice.add(each)
    assert choice.read_count == len(results)
    return [each.result.item for each in choice.chosen()]


@pytest.mark.parametrize(
    ("value", "task", "outcome"),
    [
        (None, "gsm8k", ItemOutcome.FAILED),
        (0.0, "gsm8k", ItemOutcome.WRONG),
        (1.0, "gsm8k", ItemOutcome.RIGHT),
        (0.5, "gsm8k", ItemOutcome.BETWEEN),
        (1.0, "harmbench", ItemOutcome.WRONG),
        (0.0, "harmbench", ItemOutcome.RIGHT),
    ],
)
def test_an_item_is_told_by_its_primary_metric(
    facts: ReportFacts, value: float | None, task: str, outcome: ItemOutcome
) -> None:
    assert outcome_of(make("a", value, task=task), facts.newest) is outcome


def test_without_the_suite_only_a_single_metric_says_what_is_right(facts: ReportFacts) -> None:
    unknown = replace(facts.newest, suite=None)
    result = make("a", 0.0)
    assert outcome_of(result, unknown) is ItemOutcome.WRONG
    assert outcome_of(replace(result, metrics={"a": 0.0, "b": 1.0}), unknown) is ItemOutcome.SCORED


def test_failures_come_first_then_wrong_ones_in_the_order_of_draws(facts: ReportFacts) -> None:
    results = [make(f"right {n}", 1.0, index=n) for n in range(5)]
    results += [make(f"wrong {n}", 0.0, index=9 - n) for n in range(3)]
    results += [make("failed", None, index=99)]
    assert chosen(facts.newest, results, 5) == ["failed", "wrong 2", "wrong 1", "wrong 0", "right 0"]
    assert chosen(facts.newest, results, 0) == []


def test_tasks_take_turns(facts: ReportFacts) -> None:
    results = [make(f"a{n}", 0.0, index=n) for n in range(50)]
    results += [make(f"b{n}", 1.0, task="harmbench", index=n) for n in range(2)]
    assert chosen(facts.newest, results, 6) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_long_texts_are_cut_and_that_is_told(facts: ReportFacts) -> None:
    choice = ItemChoice(facts.newest, 1)
    choice.add(make("a", 1.0, output="x" * (MOST_CHARACTERS + 7)))
    [shown] = choice.chosen()
    assert len(shown.result.output) == MOST_CHARACTERS
    assert shown.cut_characters == {"output": 7}


@pytest.mark.parametrize(("total", "runs", "shares"), [(10, 3, [3, 3, 4]), (1, 3, [0, 0, 1]), (0, 2, [0, 0])])
def test_the_newest_run_gets_what_is_left_over(total: int, runs: int, shares: list[int]) -> None:
    assert shares_of(total, runs) == shares
