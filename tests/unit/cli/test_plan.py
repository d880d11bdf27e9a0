"""`evalfleet plan` shows what a run would cost and starts nothing."""

from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from evalfleet.evaluation.v1 import evaluation_pb2

from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


def spend(items: int) -> evaluation_pb2.Spend:
    return evaluation_pb2.Spend(
        items=items, tokens=20 * items, engine_seconds=items / 100, cost_micro_usd=100 * items, wall_seconds=items / 50
    )


def test_a_plan_shows_each_task_and_where_its_cost_comes_from(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.plan = evaluation_pb2.EstimateRunResponse(
        tasks=[
            evaluation_pb2.TaskPlan(
                task="arithmetic",
                item_count=5000,
                expected_item_count=400,
                expected=spend(400),
                basis=evaluation_pb2.COST_BASIS_SAME_MODEL,
                basis_run="runs/r7",
            ),
            evaluation_pb2.TaskPlan(
                task="harm",
                item_count=100,
                expected_item_count=100,
                expected=spend(100),
                basis=evaluation_pb2.COST_BASIS_PROMPTS,
            ),
        ],
        expected=spend(450),
        exceeds_budget=True,
    )
    result = invoke("plan", "--suite", "demo", "--gate", "arithmetic>=0.6", "--budget", "450items", "--model", "s-1")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["arithmetic", "400", "5,000", "8,000", "4.0", "$0.0400", "8.0", "this", "model", "in", "r7"] in rows
    assert ["all", "450", "5,100", "9,000", "4.5", "$0.0450", "9.0"] in rows
    assert "its prompts: tokens at most" in result.stdout
    assert "the budget will probably be used up" in result.stdout
    (request,) = fake.evaluation.planned
    assert (request.model, request.suite, request.budget.items) == ("models/s-1", "suites/demo", 450)
    assert request.gates[0].task == "arithmetic"
    assert fake.evaluation.created == []


def test_a_folder_is_not_loaded_for_a_plan(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "step-9").mkdir()
    assert invoke("plan", "--suite", "demo", "--model", "step-9").exit_code == 0
    assert fake.evaluation.planned[0].model == ""
    assert fake.models.requests == []
