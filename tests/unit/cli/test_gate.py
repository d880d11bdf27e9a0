"""`evalfleet gate` and `run --gate`: what reaches the fleet, what people see, and the exit codes."""

from collections.abc import Callable

import grpc
import pytest
from click.testing import Result
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.evaluation.v1 import evaluation_pb2

from tests.fakes.demo_run import make_run, watch_step
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]

SUCCEEDED = evaluation_pb2.RUN_STATE_SUCCEEDED
PASSED = drawing_pb2.QUESTION_STATE_PASSED
FAILED = drawing_pb2.QUESTION_STATE_FAILED
UNDECIDED = drawing_pb2.QUESTION_STATE_UNDECIDED


def gated(
    state: drawing_pb2.QuestionState.ValueType,
    *,
    run_state: evaluation_pb2.RunState.ValueType = SUCCEEDED,
    stop: evaluation_pb2.StopReason.ValueType = evaluation_pb2.STOP_REASON_DECIDED,
    completed: int = 100,
) -> evaluation_pb2.Run:
    """A run with one gate on arithmetic, of 5000 items."""
    run = make_run(done=9, state=run_state)
    run.stop_reason = stop
    run.confidence = 0.95
    run.gates.add(task="arithmetic", metric="exact_match", direction=drawing_pb2.GATE_DIRECTION_AT_LEAST, threshold=0.6)
    gate = drawing_pb2.Gate(direction=drawing_pb2.GATE_DIRECTION_AT_LEAST, threshold=0.6)
    question = drawing_pb2.QuestionDecision(question=drawing_pb2.Question(gate=gate, alpha=0.05), state=state)
    interval = drawing_pb2.AnytimeInterval(lower=0.625, upper=0.875, confidence_level=0.95, method="betting")
    run.decisions.add(
        run=run.name,
        task="arithmetic",
        metric="exact_match",
        questions=[question],
        is_decided=state != UNDECIDED,
        interval=interval,
        value=0.7125,
        completed_count=completed,
        drawn_count=128,
        item_count=5000,
        saved_count=4900,
    )
    return run


def test_items_whose_score_nobody_knows_are_told_beside_the_decision(fake: FakeFleet, invoke: Invoke) -> None:
    run = gated(UNDECIDED)
    run.decisions[0].unknown_count = 7
    fake.evaluation.put(run)
    shown = invoke("show", run.name)
    assert "not known: the scores of 7 items of arithmetic: answers and intervals hold" in shown.stdout


@pytest.fixture(autouse=True)
def model(fake: FakeFleet) -> None:
    fake.models.put("step-100")
    fake.evaluation.suites["suites/arithmetic"] = evaluation_pb2.Suite(name="suites/arithmetic")


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (gated(PASSED), 0),
        (gated(FAILED, stop=evaluation_pb2.STOP_REASON_GATE_FAILED), 1),
        (gated(UNDECIDED, stop=evaluation_pb2.STOP_REASON_BUDGET_EXHAUSTED), 2),
        (gated(PASSED, run_state=evaluation_pb2.RUN_STATE_FAILED), 2),
        (gated(FAILED, run_state=evaluation_pb2.RUN_STATE_CANCELLED), 2),
    ],
)
@pytest.mark.parametrize(
    "command", [["gate", "arithmetic>=0.6"], ["run", "--suite", "demo", "--gate", "arithmetic>=0.6"]]
)
def test_the_exit_code_is_the_answer(
    fake: FakeFleet, invoke: Invoke, command: list[str], run: evaluation_pb2.Run, code: int
) -> None:
    fake.evaluation.scripts = [[watch_step(run)]]
    assert invoke(*command, "--model", "step-100").exit_code == code


def test_the_answer_and_what_it_saved_are_shown(fake: FakeFleet, invoke: Invoke) -> None:
    going = gated(UNDECIDED, run_state=evaluation_pb2.RUN_STATE_RUNNING, stop=evaluation_pb2.STOP_REASON_UNSPECIFIED)
    fake.evaluation.scripts = [[watch_step(going), watch_step(gated(PASSED))]]
    result = invoke("gate", "arithmetic>=0.6", "--model", "step-100")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert "runs/r1: arithmetic exact_match >=0.6 passed after 100 of 5,000 items: 0.713, 0.625 … 0.875" in lines
    row = next(line for line in lines if line.startswith("arithmetic exact_match >=0.6"))
    assert row.split()[3:] == ["passed", "0.713", "0.625", "…", "0.875", "100", "5,000", "98.0%"]
    assert "stopped because every question is decided: 4,900 of 5,000 items saved (98.0%)" in lines
    # The table of results shows the estimate for the whole task, not the mean of what was drawn.
    results = next(line for line in lines if line.startswith("arithmetic   exact_match"))
    assert results.split()[3:7] == ["0.713", "0.625", "…", "0.875"]


def test_a_gate_asks_for_its_tasks_alone_and_stops_at_the_first_failure(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.scripts = [[watch_step(gated(PASSED))]]
    gates = ["arithmetic>=60%", "harm:unsafe_rate<=0.02", "arithmetic<=0.9"]
    invoke("gate", *gates, "--model", "step-100", "--suite", "demo", "--budget", "2usd,10min", "--no-history")
    (request,) = fake.evaluation.created
    assert (request.suite, list(request.tasks)) == ("suites/demo", ["arithmetic", "harm"])
    assert [(each.task, each.metric, each.threshold) for each in request.gates] == [
        ("arithmetic", "", 0.6),
        ("harm", "unsafe_rate", 0.02),
        ("arithmetic", "", 0.9),
    ]
    assert [each.direction for each in request.gates] == [
        drawing_pb2.GATE_DIRECTION_AT_LEAST,
        drawing_pb2.GATE_DIRECTION_AT_MOST,
        drawing_pb2.GATE_DIRECTION_AT_MOST,
    ]
    assert (request.budget.cost_micro_usd, request.budget.wall_seconds) == (2_000_000, 600)
    assert not request.budget.HasField("items")
    assert request.stop_at_failure
    assert request.HasField("use_history")
    assert not request.use_history


def test_a_single_task_is_its_own_suite(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.scripts = [[watch_step(gated(PASSED))]]
    invoke("gate", "arithmetic>=0.6", "--model", "step-100")
    assert fake.evaluation.created[0].suite == "suites/arithmetic"
    result = invoke("gate", "arithmetic>=0.6", "harm<=0.1", "--model", "step-100")
    assert result.exit_code == 2
    assert "gates of several tasks need --suite" in result.stderr


def test_a_run_says_what_else_it_is_to_find_out(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.scripts = [[watch_step(make_run(done=10, state=SUCCEEDED))]]
    options = ["--precision", "2%", "--tier", "standard", "--confidence", "0.99", "--budget", "5000items"]
    result = invoke("run", "--model", "step-100", "--suite", "demo", *options)
    assert result.exit_code == 0, result.output
    (request,) = fake.evaluation.created
    assert (request.precision, request.tier, request.confidence) == (0.02, "standard", 0.99)
    assert request.budget.items == 5000
    assert not any(request.HasField(each) for each in ("use_history", "stop_at_failure"))


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--gate", "arithmetic>0.6", "is not TASK>=NUMBER"),
        ("--gate", "arithmetic>=60", "from 0 to 1"),
        ("--budget", "2", "one of the units"),
        ("--precision", "0.6", "from 0.001 to 0.5"),
        ("--precision", "narrow", "is no number"),
        ("--tier", "quick", "'smoke', 'standard', 'deep'"),
        ("--confidence", "1", "0.5<=x<=0.9999"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(
    fake: FakeFleet, invoke: Invoke, option: str, value: str, problem: str
) -> None:
    result = invoke("run", "--model", "step-100", "--suite", "demo", option, value)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert fake.evaluation.created == []


def test_an_error_leaves_a_gate_undecided(fake: FakeFleet, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("gate", "arithmtic>=0.6", "--model", "step-100")
    assert result.exit_code == 2
    assert result.stderr == "Error: no suite named 'suites/arithmtic'; did you mean 'demo'?\n"
    monkeypatch.setattr("evalfleet.runs.Runs.watch.__kwdefaults__", {"patience_seconds": 0.0})
    monkeypatch.setattr("evalfleet.runs._RECONNECT_SECONDS", 0.01)
    fake.evaluation.scripts = [[grpc.StatusCode.UNAVAILABLE]]
    result = invoke("gate", "arithmetic>=0.6", "--model", "step-100")
    assert result.exit_code == 2
    assert "cannot be reached" in result.stderr


def test_what_was_spent_is_shown_beside_its_limit(fake: FakeFleet, invoke: Invoke) -> None:
    run = gated(UNDECIDED, stop=evaluation_pb2.STOP_REASON_BUDGET_EXHAUSTED)
    run.budget.items = 128
    run.budget.cost_micro_usd = 20_000
    run.spend.items = 128
    run.spend.tokens = 4321
    run.spend.cost_micro_usd = 12_345
    fake.evaluation.scripts = [[watch_step(run)]]
    result = invoke("gate", "arithmetic>=0.6", "--model", "step-100")
    spent = next(line for line in result.stdout.splitlines() if line.startswith("spent: "))
    assert spent == ("spent: 128 items of 128, 4,321 tokens computed, 0.0 s of the engine, $0.0123 of $0.0200, 0.0 s")
    assert "stopped because the budget is used up" in result.stdout
