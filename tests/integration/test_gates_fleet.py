"""Gates on a real fleet: a part of the items decides what all of them say, with history a smaller one, and also when
the service that draws them is killed in between."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.fleet import Fleet
from evalfleet.goals import Answer, ModelChange, StopReason, TaskDecision
from evalfleet.rankings import Standing
from evalfleet.results import Run, RunSnapshot, RunState
from safetensors.torch import load_file, save_file

from services.standalone.testing import RunningFleet
from tests.integration.quiz import ITEMS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

WEIGHTS = "model.safetensors"


def finished(client: Fleet, run: Run) -> RunSnapshot:
    for snapshot in client.runs.watch(run.name):
        last = snapshot
    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    return last


def decision_of(snapshot: RunSnapshot) -> TaskDecision:
    (decision,) = snapshot.run.decisions
    return decision


def a_little_later(tiny_policy: Path, folder: Path) -> Path:
    """The checkpoint that a tenth of the training's last leg would add, in the direction that it took."""
    earlier, last = (load_file(each / WEIGHTS) for each in sorted(tiny_policy.parent.glob("step-*"))[-2:])
    later = folder / f"later-{uuid.uuid4().hex}"
    shutil.copytree(tiny_policy, later)
    moved = {name: tensor + 0.1 * (tensor - earlier[name]) for name, tensor in last.items()}
    save_file(moved, later / WEIGHTS, metadata={"format": "pt"})
    return later


def test_a_part_of_the_items_decides_and_history_makes_it_smaller(
    fleet: RunningFleet, tiny_policy: Path, checkpoint_folder: Path
) -> None:
    gates = ["quiz>=0.18", "quiz<=0.33"]
    decided, exact = [], []
    with Fleet.connect(fleet.endpoints) as client:
        checkpoints = [tiny_policy, a_little_later(tiny_policy, checkpoint_folder)]
        models = [client.models.add(each).name for each in checkpoints]
        for model in models:
            snapshot = finished(client, client.runs.start(model=model, suite="quiz", gates=gates, concurrency=64))
            assert snapshot.run.stop_reason is StopReason.DECIDED
            decided.append(decision_of(snapshot))
            (totals,) = snapshot.totals
            assert totals.item_count == ITEMS - decided[-1].saved_count
            # All of the first checkpoint's items are the second one's history.
            snapshot = finished(client, client.runs.start(model=model, suite="quiz", concurrency=64))
            assert snapshot.run.stop_reason is StopReason.COMPLETE
            (estimate,) = snapshot.estimates
            exact.append(estimate.value)

    for decision, value in zip(decided, exact, strict=True):
        assert value is not None
        assert 0.18 <= value <= 0.33, "the checkpoints are not as this test needs them"
        assert [each.answer for each in decision.questions] == [Answer.PASSED, Answer.PASSED]
        assert decision.lower <= value <= decision.upper
        assert decision.item_count == ITEMS
        assert decision.saved_count > ITEMS / 2
    assert decided[1].completed_count < decided[0].completed_count


def test_a_run_decides_the_same_although_its_service_is_killed(
    fleet: RunningFleet, tiny_policy: Path, checkpoint_folder: Path
) -> None:
    # Known answers would end the run before anything can be killed.
    folder = _renamed(tiny_policy, checkpoint_folder)
    with Fleet.connect(fleet.endpoints) as client:
        model = client.models.add(folder).name
        # Without history the order depends on the seed alone, so that both runs draw the same.
        run = client.runs.start(model=model, suite="quiz", gates=["quiz>=0.45"], concurrency=2, use_history=False)
        killed = None
        events: list[RunState | TaskDecision] = []
        for snapshot in client.runs.watch(run.name):
            events += snapshot.events
            if killed is None and snapshot.run.tasks[0].done_count >= 20:
                killed = fleet.processes["evaluation"]
                os.kill(killed, signal.SIGKILL)
            last = snapshot
        assert killed is not None, "the run was over before anything could be killed"
        undisturbed = finished(
            client, client.runs.start(model=model, suite="quiz", gates=["quiz>=0.45"], concurrency=2, use_history=False)
        )

    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    disturbed, calm = decision_of(last), decision_of(undisturbed)
    assert disturbed.questions == calm.questions
    assert disturbed.questions[0].answer is Answer.FAILED
    assert disturbed.questions[0].decided_after is not None
    told = [each if isinstance(each, RunState) else each.questions[0].answer for each in events]
    assert told == [RunState.PENDING, RunState.RUNNING, Answer.FAILED, RunState.SUCCEEDED]

    rows = results_of(fleet, last.run)
    assert Counter(row.item for row in rows).most_common(1)[0][1] == 1
    indices = {row.draw_index: row.item for row in rows}
    assert set(range(disturbed.completed_count)) <= set(indices)
    others = {row.draw_index: row.item for row in results_of(fleet, undisturbed.run)}
    common = set(indices) & set(others)
    assert {index: indices[index] for index in common} == {index: others[index] for index in common}


def results_of(fleet: RunningFleet, run: Run) -> list[aggregation_pb2.Result]:
    """All results of a run."""
    with grpc.insecure_channel(fleet.endpoints["aggregation"]) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        request = aggregation_pb2.ListResultsRequest(run=run.name, page_size=10_000)
        return list(stub.ListResults(request, timeout=120, wait_for_ready=True).results)


def test_a_budget_ends_a_run_with_what_it_has_found(fleet: RunningFleet, tiny_policy: Path) -> None:
    with Fleet.connect(fleet.endpoints) as client:
        model = client.models.add(tiny_policy).name
        snapshot = finished(client, client.runs.start(model=model, suite="quiz", budget="300items", concurrency=16))
    decision = decision_of(snapshot)
    assert snapshot.run.stop_reason is StopReason.BUDGET_EXHAUSTED
    assert snapshot.run.spend is not None
    assert (snapshot.run.spend.items, decision.completed_count, len(results_of(fleet, snapshot.run))) == (300,) * 3
    assert decision.value is not None
    assert 0 < decision.lower < decision.value < decision.upper < 1


def test_one_request_climbs_the_tiers_and_pays_for_no_item_twice(fleet: RunningFleet, tiny_policy: Path) -> None:
    with Fleet.connect(fleet.endpoints) as client:
        model = client.models.add(tiny_policy).name
        wanted: dict[str, Any] = {
            "gates": ["quiz>=0.02"],
            "budget": "400items",
            "use_history": False,
            "concurrency": 32,
        }
        first = client.runs.start(model=model, suite="quizzes", tier="smoke", escalate=True, seed=77, **wanted)
        smoke = finished(client, first).run
        assert smoke.next_run == f"{smoke.name}-standard"
        standard = finished(client, client.runs.get(smoke.next_run))
        again = client.runs.start(model=model, suite="quizzes", tier="auto", previous_run=smoke.name, **wanted)
        assert (again.tier, again.tier_choice and again.tier_choice.change) == ("smoke", ModelChange.UNCHANGED)
        finished(client, again)
    assert [each.answer for each in smoke.decisions[0].questions] == [Answer.PASSED]
    assert standard.run.earlier_run == smoke.name
    assert standard.run.budget.items is not None
    assert smoke.spend is not None
    assert standard.run.budget.items == 400 - smoke.spend.items
    # How far either got beyond what decided the gate depends on what was in flight.
    needed = smoke.decisions[0].questions[0].decided_after
    assert needed is not None
    assert smoke.spend.items <= needed + 4 * 32
    assert decision_of(standard).completed_count >= needed
    paid = {row.item for row in results_of(fleet, smoke)}
    rows = [row for row in results_of(fleet, standard.run) if row.item in paid]
    assert len(rows) >= needed
    assert sum(row.usage.computed_prompt_tokens + row.usage.computed_completion_tokens for row in rows) == 0


def test_the_command_line_says_what_a_gate_costs_and_answers_with_its_exit_code(
    fleet: RunningFleet, tiny_policy: Path
) -> None:
    def evalfleet(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evalfleet.cli.main", f"--state-dir={fleet.state_dir}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    planned = evalfleet("plan", "--suite", "quizzes", "--tier", "smoke", "--model", str(tiny_policy))
    assert planned.returncode == 0, planned.stderr
    assert "quiz" in planned.stdout
    model = ["--model", str(tiny_policy), "--concurrency", "32"]
    passed = evalfleet("gate", "quiz>=0.1", *model)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "stopped because every question is decided" in passed.stdout
    failed = evalfleet("run", "--suite", "quizzes", "--tier", "smoke", *model)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "stopped because a gate failed" in failed.stdout
    undecided = evalfleet("gate", "quiz>=0.25", "--budget", "64items", *model)
    assert undecided.returncode == 2, undecided.stdout + undecided.stderr
    assert "stopped because the budget is used up" in undecided.stdout


def test_the_best_of_several_is_found_although_the_service_is_killed(
    fleet: RunningFleet, tiny_policy: Path, checkpoint_folder: Path
) -> None:
    folders = [_renamed(each, checkpoint_folder) for each in sorted(tiny_policy.parent.glob("step-*"))[-2:]]
    with Fleet.connect(fleet.endpoints) as client:
        models = [client.models.add(each).name for each in folders]
        started = client.rankings.start(models=models, suite="quiz", top=1, item_limit=240, concurrency=4)
        killed = None
        for ranking in client.rankings.watch(started.name):
            if killed is None and ranking.asked_count >= 40:
                killed = fleet.processes["evaluation"]
                os.kill(killed, signal.SIGKILL)
        assert killed is not None, "the ranking was over before anything could be killed"
        assert ranking.state is RunState.SUCCEEDED, ranking.failure
        assert ranking.is_decided
        means, orders = [], []
        for contender in ranking.contenders:
            run = client.runs.get(contender.run)
            rows = results_of(fleet, run)
            assert Counter(row.item for row in rows).most_common(1)[0][1] == 1
            assert run.tasks[0].done_count == len(rows) == contender.evaluated_count
            means.append(sum(row.scored.metrics["acc"] for row in rows) / len(rows))
            orders.append({row.draw_index: row.item for row in rows})
    common = orders[0].keys() & orders[1].keys()
    assert {index: orders[0][index] for index in common} == {index: orders[1][index] for index in common}
    best = ranking.in_order[0]
    assert best.standing is Standing.TOP
    if all(each.evaluated_count == 240 for each in ranking.contenders):
        assert means[ranking.contenders.index(best)] == max(means)


def test_a_variant_that_lost_nothing_is_cleared_by_a_part_of_the_items(
    fleet: RunningFleet, tiny_policy: Path, checkpoint_folder: Path
) -> None:
    variant = _renamed(tiny_policy, checkpoint_folder)
    command = [sys.executable, "-m", "evalfleet.cli.main", f"--state-dir={fleet.state_dir}", "compare"]
    asked = ["--margin", "0.05", "--suite", "quizzes", "--task", "quiz", "--concurrency", "32"]
    result = subprocess.run(
        [*command, str(tiny_policy), str(variant), *asked], capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    [line] = [each for each in result.stdout.splitlines() if each.startswith("asked: ")]
    count, full = (int(each.replace(",", "")) for each in (line.split()[1], line.split()[3]))
    assert full == 2 * ITEMS
    assert 0 < count < full / 4
    assert "is not inferior" in result.stdout


def _renamed(folder: Path, below: Path) -> Path:
    """Copy a checkpoint so that it answers the same, and its digest is its own: nothing of it is in a cache."""
    copy = below / uuid.uuid4().hex
    shutil.copytree(folder, copy)
    template = copy / "chat_template.jinja"
    template.write_text(f"{template.read_text()}{{# {copy.name} #}}")
    return copy
