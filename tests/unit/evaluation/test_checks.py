"""A wrong request names every wrong field."""

import pytest
from evalfleet.evaluation.v1 import evaluation_pb2

from services.evaluation.checks import resource_id, run_request
from services.runtime.errors import InvalidArgumentError


def test_a_minimal_request_leaves_the_choices_to_the_service() -> None:
    request = run_request(evaluation_pb2.CreateRunRequest(suite="suites/demo", model="models/step-10"))
    assert (request.suite, request.model) == ("demo", "models/step-10")
    assert (request.run_id, request.seed, request.item_limit, request.concurrency) == (None, None, None, None)
    assert request.priority == 0


def test_all_violations_are_reported_together() -> None:
    wrong = evaluation_pb2.CreateRunRequest(
        suite="demo", model="step", run_id="-x", item_limit=0, concurrency=0, request_id="17", priority=101
    )
    with pytest.raises(InvalidArgumentError) as caught:
        run_request(wrong)
    fields = [violation.field for violation in caught.value.field_violations]
    assert fields == ["suite", "model", "run_id", "item_limit", "concurrency", "priority", "request_id"]


@pytest.mark.parametrize("name", ["", "runs", "runs/", "suites/x", "runs/a/b", "x"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="runs/ID"):
        resource_id(name, "runs")


def test_all_violations_of_a_goal_are_reported_together() -> None:
    wrong = evaluation_pb2.CreateRunRequest(
        suite="suites/demo",
        model="models/m",
        gates=[evaluation_pb2.Gate(threshold=float("nan"))],
        precision=0.0001,
        confidence=1.0,
        tier="quick",
        budget=evaluation_pb2.Budget(items=0, engine_seconds=-1),
        previous_run="r1",
        change=evaluation_pb2.MODEL_CHANGE_MINOR,
        sample_count=0,
        temperature=2.5,
    )
    with pytest.raises(InvalidArgumentError) as caught:
        run_request(wrong)
    fields = [violation.field for violation in caught.value.field_violations]
    assert fields == [
        "gates[0].task",
        "gates[0].direction",
        "gates[0].threshold",
        "precision",
        "confidence",
        "previous_run",
        "tier",
        "change",
        "sample_count",
        "temperature",
        "budget.items",
        "budget.engine_seconds",
    ]


def test_what_escalates_begins_somewhere() -> None:
    with pytest.raises(InvalidArgumentError, match="escalate: needs a tier"):
        run_request(evaluation_pb2.CreateRunRequest(suite="suites/demo", model="models/m", escalate=True))


def test_a_plan_need_not_name_a_model() -> None:
    assert run_request(evaluation_pb2.CreateRunRequest(suite="suites/demo"), needs_model=False).model == ""
