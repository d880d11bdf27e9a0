"""Tiers one after another: what is run next, and which exit code remains."""

from collections.abc import Callable

import pytest
from click.testing import Result
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.evaluation.v1 import evaluation_pb2

from tests.fakes.demo_run import make_run, watch_step
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]

PASSED = drawing_pb2.QUESTION_STATE_PASSED
FAILED = drawing_pb2.QUESTION_STATE_FAILED
UNDECIDED = drawing_pb2.QUESTION_STATE_UNDECIDED


def ended(
    *answers: drawing_pb2.QuestionState.ValueType,
    state: evaluation_pb2.RunState.ValueType = evaluation_pb2.RUN_STATE_SUCCEEDED,
) -> list[evaluation_pb2.WatchRunResponse]:
    """A run that has ended, with a gate for each answer."""
    run = make_run(done=10, state=state)
    gate = drawing_pb2.Gate(direction=drawing_pb2.GATE_DIRECTION_AT_LEAST, threshold=0.5)
    for answer in answers:
        run.gates.add(task="arithmetic", direction=gate.direction, threshold=0.5)
        question = drawing_pb2.QuestionDecision(question=drawing_pb2.Question(gate=gate, alpha=0.05), state=answer)
        run.decisions.add(task="arithmetic", metric="exact_match", questions=[question], item_count=10)
    return [watch_step(run)]


def tiers_of(fake: FakeFleet) -> list[str]:
    return [request.tier for request in fake.evaluation.created]


@pytest.fixture(autouse=True)
def model(fake: FakeFleet) -> None:
    fake.models.put("step-100")


@pytest.mark.parametrize(
    ("runs", "code"),
    [
        ([ended(PASSED), ended(PASSED), ended(PASSED)], 0),
        ([ended(PASSED), ended(FAILED)], 1),
        ([ended(FAILED)], 1),
        ([ended(UNDECIDED), ended(PASSED), ended(PASSED)], 0),
        ([ended(PASSED), ended(UNDECIDED), ended()], 2),
        ([ended(PASSED), ended(PASSED), ended()], 0),
        ([ended(PASSED, state=evaluation_pb2.RUN_STATE_FAILED)], 2),
    ],
)
def test_the_runs_of_all_tiers_are_followed_and_the_last_that_says_something_decides(
    fake: FakeFleet, invoke: Invoke, runs: list[list[evaluation_pb2.WatchRunResponse]], code: int
) -> None:
    tiers = ["smoke", "standard", "deep"]
    for index, (step,) in enumerate(runs):
        step.run.name, step.run.tier = f"runs/r{index + 1}", tiers[index]
        step.run.next_run = f"runs/r{index + 2}" if index + 1 < len(runs) else ""
        if index:
            fake.evaluation.put(evaluation_pb2.Run(name=step.run.name, suite="suites/demo", tier=tiers[index]))
    fake.evaluation.scripts = [list(each) for each in runs]
    result = invoke("run", "--model", "step-100", "--suite", "demo", "--tier", "smoke", "--escalate")
    assert (tiers_of(fake), fake.evaluation.created[0].escalate, result.exit_code) == (["smoke"], True, code)
    assert result.stdout.count("going on with") == len(runs) - 1
    assert fake.evaluation.watch_count == len(runs)


def test_what_changed_is_told_to_the_service_which_says_why_it_chose(fake: FakeFleet, invoke: Invoke) -> None:
    run = make_run(done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED)
    run.tier, run.tier_choice.reason = "standard", "the caller says that the change is minor"
    fake.evaluation.scripts = [[watch_step(run)]]
    fake.evaluation.answer = run
    result = invoke("run", "--model", "step-100", "--suite", "demo", "--changed", "minor")
    assert (tiers_of(fake), result.exit_code) == (["auto"], 0), result.output
    assert fake.evaluation.created[0].change == evaluation_pb2.MODEL_CHANGE_MINOR
    assert "tier standard: the caller says that the change is minor" in result.stdout


def test_samples_and_their_temperature_are_asked_for(fake: FakeFleet, invoke: Invoke) -> None:
    options = ["--tier", "deep", "--samples", "4", "--temperature", "0.8", "--detach"]
    assert invoke("run", "--model", "step-100", "--suite", "demo", *options).exit_code == 0
    (request,) = fake.evaluation.created
    assert (request.tier, request.sample_count, request.temperature) == ("deep", 4, 0.8)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--escalate"], "--escalate needs --tier or --changed"),
        (["--tier", "smoke", "--changed", "minor"], "give one of them"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(fake: FakeFleet, invoke: Invoke, options: list[str], problem: str) -> None:
    result = invoke("run", "--model", "step-100", "--suite", "demo", *options)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert fake.evaluation.created == []


def test_a_suite_shows_its_tiers(fake: FakeFleet, invoke: Invoke) -> None:
    tier = fake.evaluation.suites["suites/demo"].tiers.add(name="smoke", stops_at_failure=True)
    tier.gates.add(task="arithmetic", direction=drawing_pb2.GATE_DIRECTION_AT_LEAST, threshold=0.3)
    tier.budget.items, tier.budget.cost_micro_usd = 3000, 1_500_000
    tier.starts_for.append(evaluation_pb2.MODEL_CHANGE_ADAPTER)
    (row,) = [line.split() for line in invoke("suites", "demo").stdout.splitlines() if line.strip().startswith("smoke")]
    assert row == ["smoke", "arithmetic>=0.3", "3,000", "items,", "$1.5", "adapter"]
