"""What a report asks of a fleet."""

import pytest
from evalfleet.errors import NotFoundError
from evalfleet.fleet import Fleet
from evalfleet.reports import gather_report
from evalfleet.results import GuardQuality

from tests.fakes.checkpoint_runs import SUITE, fill
from tests.fakes.fleet import FakeFleet


@pytest.fixture
def fake(fake_fleet: FakeFleet) -> FakeFleet:
    fill(fake_fleet)
    return fake_fleet


def test_the_newest_run_is_compared_with_the_one_before_and_the_first(fake: FakeFleet, fleet: Fleet) -> None:
    facts = gather_report(fleet, ["step-100", "step-400", "step-1000"])
    assert [(each.base, each.variant) for each in facts.pairs] == [
        ("step-00400", "step-01000"), ("step-00100", "step-01000"),
    ]  # fmt: skip
    first, _ = fake.aggregation.compare_requests
    assert [(each.task, each.metric, each.lower_is_better) for each in first.metrics] == [
        ("gsm8k", "exact_match", False), ("harmbench", "unsafe", True),
    ]  # fmt: skip
    [watched] = fake.aggregation.regression_requests
    assert list(watched.runs) == ["runs/step-100", "runs/step-400", "runs/step-1000"]
    assert facts.places() == [100.0, 400.0, 1000.0]


def test_runs_that_cannot_be_compared_say_why(fake: FakeFleet, fleet: Fleet) -> None:
    fake.aggregation.comparison_refusal = "RUNS_NOT_COMPARABLE"
    facts = gather_report(fleet, ["step-100", "step-400"])
    assert [(each.compared, each.refusal) for each in facts.pairs] == [(None, "the runs cannot be paired item by item")]
    assert facts.regressions is None


def test_one_run_is_compared_with_nothing(fake: FakeFleet, fleet: Fleet) -> None:
    facts = gather_report(fleet, ["runs/step-100"], guard_qualities=[GuardQuality("unsafe", 10, 9, 10, 9)])
    assert (facts.pairs, facts.regressions, facts.item_total, len(facts.items)) == ((), None, 158, 158)
    [asked] = fake.aggregation.estimate_requests
    assert [each.metric for each in asked.guard_qualities] == ["unsafe"]


def test_a_suite_that_is_known_no_more_leaves_the_numbers(fake: FakeFleet, fleet: Fleet) -> None:
    del fake.evaluation.suites[SUITE]
    facts = gather_report(fleet, ["step-100", "step-400", "step-1000"], item_count=0)
    assert facts.newest.suite is None
    assert "primary metric" in facts.pairs[0].refusal
    assert facts.items == ()


def test_a_run_that_is_not_there_is_an_error(fake: FakeFleet, fleet: Fleet) -> None:
    with pytest.raises(NotFoundError):
        gather_report(fleet, ["other"])


@pytest.mark.parametrize("runs", [[], ["step-100", "runs/step-100"]])
def test_no_run_or_one_twice_is_refused(fake: FakeFleet, fleet: Fleet, runs: list[str]) -> None:
    with pytest.raises(ValueError, match="none twice"):
        gather_report(fleet, runs)


def test_places_are_ranks_where_names_have_no_rising_numbers(fake: FakeFleet, fleet: Fleet) -> None:
    facts = gather_report(fleet, ["step-1000", "step-100"], item_count=0)
    assert facts.places() == [0.0, 1.0]
