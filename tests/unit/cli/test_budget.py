"""`evalfleet budget` shows what a caller has left of its day."""

from collections.abc import Callable

import pytest
from click.testing import Result
from evalfleet.evaluation.v1 import evaluation_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


@pytest.fixture
def team(fake: FakeFleet) -> evaluation_pb2.CallerBudget:
    budget = evaluation_pb2.CallerBudget(
        caller="team/a",
        pattern="team/*",
        day="2026-01-31",
        limit=evaluation_pb2.Budget(items=1000, cost_micro_usd=2_000_000),
        spent=evaluation_pb2.Spend(items=600, tokens=12_345, cost_micro_usd=500_000),
        reserved=evaluation_pb2.Spend(items=32, cost_micro_usd=10_000),
        reset_time=Timestamp(seconds=1_769_904_000),
    )
    fake.evaluation.budgets["team/a"] = budget
    return budget


@pytest.mark.usefixtures("team")
def test_what_is_left_is_neither_spent_nor_in_flight(invoke: Invoke) -> None:
    result = invoke("budget", "team/a")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["items", "1,000", "600", "32", "368"] in rows
    assert ["tokens", "–", "12,345", "0"] in rows
    assert ["cost", "$2.0000", "$0.5000", "$0.0100", "$1.4900"] in rows
    assert "the rule for team/*" in result.stdout
    assert "begins anew at 2026-02-01 00:00 UTC" in result.stdout


def test_somebody_without_a_budget_is_told_so(fake: FakeFleet, invoke: Invoke) -> None:
    assert invoke("budget").stdout == "anonymous has no daily budget\n"
    assert fake.evaluation.budgets == {}


def test_a_plan_says_whether_it_fits_into_the_day(
    fake: FakeFleet, invoke: Invoke, team: evaluation_pb2.CallerBudget
) -> None:
    fake.evaluation.plan = evaluation_pb2.EstimateRunResponse(caller_budget=team)
    fitting = invoke("plan", "--suite", "demo").stdout
    assert "the run fits into what is left of today's budget of team/a: 368 items, $1.4900" in " ".join(fitting.split())
    fake.evaluation.plan.exceeds_caller_budget = True
    assert "does not fit into" in invoke("plan", "--suite", "demo").stdout
