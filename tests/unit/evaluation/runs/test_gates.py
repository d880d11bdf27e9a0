"""Gates: what a run asks of which task, and how its error is split."""

from typing import Any

import pytest

from services.evaluation.runs.budget import Budget
from services.evaluation.runs.gates import (
    Direction,
    Gate,
    Goal,
    GoalWish,
    Precision,
    parsed_gate,
    questions_of,
    with_metrics,
)
from services.evaluation.runs.stored_goal import goal_from_row, goal_to_row
from services.evaluation.runs.tiers import STANDARD_PRECISION, goal_of, suite_for
from services.evaluation.suite_specification import TierSpec
from services.evaluation.tasks import Suite
from services.runtime.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError


@pytest.fixture
def suite(make_task: Any) -> Suite:
    return Suite("demo", "a suite", (make_task("shout"), make_task("whisper")))


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("gsm8k>=0.55", Gate("gsm8k", Direction.AT_LEAST, 0.55)),
        (" harm:unsafe <= .02 ", Gate("harm", Direction.AT_MOST, 0.02, "unsafe")),
        ("a>=1", Gate("a", Direction.AT_LEAST, 1.0)),
    ],
)
def test_a_gate_is_read_as_it_is_written(text: str, gate: Gate) -> None:
    assert parsed_gate(text) == gate
    assert parsed_gate(str(gate)) == gate


@pytest.mark.parametrize("text", ["", "gsm8k", "gsm8k>0.5", "gsm8k>=55", "gsm8k>=-0.1", "gsm8k>=nan", "a:b:c>=0.1"])
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TASK>=NUMBER"):
        parsed_gate(text)


def test_a_gate_without_a_metric_is_about_the_primary_one(suite: Suite) -> None:
    (gate,) = with_metrics([parsed_gate("shout>=0.5")], suite)
    assert gate.metric == "exact_match"


def test_an_unknown_task_or_metric_names_the_nearest(suite: Suite) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'shout'"):
        with_metrics([parsed_gate("shuot>=0.5")], suite)
    with pytest.raises(NotFoundError, match="did you mean 'exact_match'"):
        with_metrics([parsed_gate("shout:exact_macht>=0.5")], suite)


def test_gates_of_one_task_are_about_one_metric(make_task: Any) -> None:
    scorers = [{"scorer": "exact_match", "metrics": ["exact_match", "other"]}]
    suite = Suite("demo", "a suite", (make_task("shout", scorers=scorers),))
    with pytest.raises(InvalidArgumentError) as caught:
        with_metrics([parsed_gate("shout>=0.5"), parsed_gate("shout:other<=0.5")], suite)
    assert caught.value.reason == "GATES_OF_TWO_METRICS"


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize(
    "gates", [[], ["shout>=0.5"], ["shout>=0.5", "shout<=0.9"], ["shout>=0.5", "whisper>=0.1", "whisper>=0.2"]]
)
def test_the_alphas_of_all_questions_add_up_to_that_of_the_run(gates: list[str], precise: bool, make_task: Any) -> None:
    tasks = [make_task(name) for name in ("shout", "whisper", "mumble")]
    written = with_metrics([parsed_gate(text) for text in gates], Suite("s", "", tuple(tasks)))
    goal = Goal(gates=written, precision=0.1 if precise else None, confidence=0.9, budget=Budget(items=5))
    asked = questions_of(goal, tasks)
    assert set(asked) == {"shout", "whisper", "mumble"}
    assert sum(each.alpha * max(1, len(each.questions)) for each in asked.values()) == pytest.approx(0.1)


def test_only_tasks_with_a_question_or_a_budget_are_drawn(suite: Suite) -> None:
    gates = with_metrics([parsed_gate("shout>=0.5")], suite)
    assert set(questions_of(Goal(gates=gates), suite.tasks)) == {"shout"}
    assert questions_of(Goal(), suite.tasks) == {}
    budgeted = questions_of(Goal(gates=gates, budget=Budget(items=9)), suite.tasks)
    assert (budgeted["whisper"].questions, budgeted["whisper"].metric) == ((), "exact_match")
    precise = questions_of(Goal(precision=0.02), suite.tasks)
    assert precise["whisper"].questions == (Precision(0.02),)


def test_a_tier_fills_in_what_the_caller_leaves_open(make_task: Any) -> None:
    tiers = {"smoke": TierSpec.model_validate({"gates": ["shout >= 0.3"], "budget": {"usd": 2.5}})}
    suite = Suite("demo", "a suite", (make_task("shout"), make_task("whisper")), tiers=tiers)
    goal = goal_of(GoalWish(tier="smoke"), suite)
    assert [str(gate) for gate in goal.gates] == ["shout:exact_match>=0.3"]
    assert goal.budget == Budget(cost_micro_usd=2_500_000)
    assert goal.stops_at_failure
    assert [task.name for task in suite_for(goal, suite).tasks] == ["shout"]
    mine = goal_of(GoalWish(tier="smoke", gates=(parsed_gate("whisper>=0.5"),), budget=Budget(items=5)), suite)
    assert [str(gate) for gate in mine.gates] == ["whisper:exact_match>=0.5"]
    assert mine.budget == Budget(items=5)


def test_tiers_mean_something_in_suites_that_define_none(suite: Suite) -> None:
    with pytest.raises(FailedPreconditionError, match="give a gate") as caught:
        goal_of(GoalWish(tier="smoke"), suite)
    assert caught.value.reason == "TIER_NEEDS_GATES"
    assert goal_of(GoalWish(tier="standard"), suite).precision == STANDARD_PRECISION
    deep = goal_of(GoalWish(tier="deep"), suite)
    assert not deep.draws
    assert suite_for(deep, suite) == suite


def test_a_tier_does_not_change_what_a_suite_measures(suite: Suite, make_task: Any) -> None:
    tiered = Suite("demo", "a suite", suite.tasks, tiers={"deep": TierSpec()})
    assert tiered.digest == suite.digest


def test_a_goal_survives_its_storage(suite: Suite) -> None:
    goal = Goal(
        gates=with_metrics([parsed_gate("shout>=0.5"), parsed_gate("whisper<=0.25")], suite),
        precision=0.01,
        confidence=0.99,
        budget=Budget(items=5, wall_seconds=1.5),
        tier="smoke",
        uses_history=False,
        stops_at_failure=True,
    )
    assert goal_from_row(goal_to_row(goal)) == goal
    assert goal_from_row({}) == Goal()
