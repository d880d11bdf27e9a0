"""Inspect AI on a real fleet: one of its own tasks, thousands of samples, and evaluations that stop early."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evalfleet.endpoints import target_variable
from evalfleet.fleet import Fleet
from evalfleet.plugins.inspect import FleetStopping, fleet_guard, fleet_scorer
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import TaskState, generate, multiple_choice

from services.standalone.testing import RunningFleet

pytestmark = pytest.mark.integration

SAMPLES = 2000
CONNECTIONS = 64


@pytest.fixture(scope="module")
def model(fleet: RunningFleet, tiny_policy: Path) -> Iterator[str]:
    with Fleet.connect(fleet.endpoints) as client, pytest.MonkeyPatch.context() as patch:
        for service, target in fleet.endpoints.items():
            patch.setenv(target_variable(service), target)
        yield f"evalfleet/{client.models.add(tiny_policy).name.removeprefix('models/')}"


def evaluated(task: Task, model: str, logs: Path, **options: Any) -> EvalLog:
    [log] = eval(
        task, model=model, display="none", log_dir=str(logs), max_connections=CONNECTIONS, log_realtime=False, **options
    )
    assert log.status == "success", log.error
    return log


def test_inspects_own_multiple_choice_task_with_our_judges(model: str, tmp_path: Path) -> None:
    samples = [
        Sample(input=f"How much is {number} + 1?", choices=[str(number + 1), str(number), "7"], target="A")
        for number in range(12)
    ]
    task = Task(
        samples,
        solver=multiple_choice(),
        scorer=[fleet_scorer("contains", parameters={"ignore_case": True}), fleet_guard()],
        config=GenerateConfig(max_tokens=8),
    )
    log = evaluated(task, model, tmp_path)
    assert log.results is not None
    assert log.results.completed_samples == len(samples)
    assert {each.name for each in log.results.scores} == {"fleet_scorer", "fleet_guard"}
    assert log.samples is not None
    for sample in log.samples:
        assert sample.scores is not None
        assert sample.scores["fleet_guard"].value in ("C", "I", "N")
    assert log.stats.model_usage[model].input_tokens > 0


def test_two_thousand_samples_end_without_an_error(model: str, tmp_path: Path) -> None:
    # A little trained model, asked for two tokens of an answer to a new question each time: nothing comes from a cache.
    samples = [Sample(id=number, input=f"What is {number} and {number}?", target="x") for number in range(SAMPLES)]
    task = Task(samples, solver=generate(), scorer=_even(), config=GenerateConfig(max_tokens=2))
    # By default a sample's first error ends the evaluation.
    log = evaluated(task, model, tmp_path, max_samples=CONNECTIONS, log_samples=False)
    assert log.results is not None
    assert log.results.completed_samples == SAMPLES
    assert log.stats.model_usage[model].output_tokens >= SAMPLES


@pytest.mark.parametrize(("at_least", "answer"), [(0.3, "passed"), (0.7, "failed")])
def test_an_evaluation_ends_when_its_question_is_decided(
    model: str, tmp_path: Path, at_least: float, answer: str
) -> None:
    # Half of all samples are right, which ones is known from their ids.
    samples = [Sample(id=f"s{number}", input=f"{number}", target="x") for number in range(1000)]
    stopping = FleetStopping(at_least=at_least)
    task = stopping.applied_to(Task(MemoryDataset(samples), solver=generate(), scorer=_even(), name="halves"))
    drawn = [each.id for each in task.dataset]
    assert sorted(map(str, drawn)) == sorted(str(each.id) for each in samples)
    assert drawn != [each.id for each in samples]
    log = evaluated(task, model, tmp_path, max_samples=CONNECTIONS, max_tokens=1)
    assert log.results is not None
    summary = log.results.early_stopping
    assert summary is not None
    assert summary.metadata["is_decided"] is True
    assert summary.metadata["answers"] == {f">={at_least}": answer}
    begun = log.results.completed_samples
    assert begun < len(samples) / 2
    assert len(summary.early_stops) == len(samples) - begun
    assert f">={at_least} {answer}" in str(summary.early_stops[0].reason)


@scorer(metrics=[accuracy()])
def _even() -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=int(str(state.sample_id).removeprefix("s")) % 2 == 0)

    return score
