"""Tiers one after another: what is run next, and which exit code remains."""

from collections.abc import Callable

import pytest
from click.testing import Result
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.evaluation.v1 import evaluation_pb2

from tests.fakes.fleet import FakeFleet, make_run, watch_step

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
    ("runs", "tiers", "code"),
    [
        ([ended(PASSED), ended(PASSED), ended(PASSED)], ["smoke", "standard", "deep"], 0),
        ([ended(PASSED), ended(FAILED)], ["smoke", "standard"], 1),
        ([ended(FAILED)], ["smoke"], 1),
        ([ended(UNDECIDED), ended(PASSED), ended(PASSED)], ["smoke", "standard", "deep"], 0),
        ([ended(PASSED), ended(UNDECIDED), ended()], ["smoke", "standard", "deep"], 2),
        ([ended(PASSED), ended(PASSED), ended()], ["smoke", "standard", "deep"], 0),
        ([ended(PASSED, state=evaluation_pb2.RUN_STATE_FAILED)], ["smoke"], 2),
    ],
)
def test_a_dearer_tier_is_for_models_that_have_not_failed(
    fake: FakeFleet,
    invoke: Invoke,
    runs: list[list[evaluation_pb2.WatchRunResponse]],
    tiers: list[str],
    code: int,
) -> None:
    fake.evaluation.scripts = [list(each) for each in runs]
    result = invoke("run", "--model", "step-100", "--suite", "demo", "--tier", "smoke", "--escalate")
    assert (tiers_of(fake), result.exit_code) == (tiers, code), result.output
    assert result.stdout.count("going on with") == len(tiers) - 1


@pytest.mark.parametrize(("changed", "tier"), [("adapter", "smoke"), ("minor", "standard"), ("major", "deep")])
def test_what_changed_says_where_to_begin(fake: FakeFleet, invoke: Invoke, changed: str, tier: str) -> None:
    fake.evaluation.scripts = [[watch_step(make_run(done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))]]
    result = invoke("run", "--model", "step-100", "--suite", "demo", "--changed", changed)
    assert (tiers_of(fake), result.exit_code) == ([tier], 0), result.output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--escalate"], "--escalate needs --tier or --changed"),
        (["--tier", "smoke", "--changed", "minor"], "give one of them"),
        (["--tier", "smoke", "--escalate", "--detach"], "leave out --escalate"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(fake: FakeFleet, invoke: Invoke, options: list[str], problem: str) -> None:
    result = invoke("run", "--model", "step-100", "--suite", "demo", *options)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert fake.evaluation.created == []
