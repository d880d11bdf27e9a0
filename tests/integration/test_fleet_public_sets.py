"""Rows of public sets go through the whole fleet: real Triton, real services, the tiny policy."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

pytestmark = pytest.mark.integration

ROWS = 6
METRICS = {
    "gsm8k": {"strict_match", "flexible_extract"},
    "mmlu": {"acc"},
    "hellaswag": {"acc", "acc_norm"},
    "arc_challenge": {"acc", "acc_norm"},
    "truthfulqa_mc1": {"acc"},
    "boolq": {"acc"},
    "winogrande": {"acc"},
    "xstest": {"refusal", "over_refusal", "unsafe"},
    "harmbench": {"refusal", "unsafe"},
    "bbq": {"acc", "biased", "counter_biased"},
}
MMLU_SUBJECTS = 8


@pytest.fixture(scope="module")
def model(fleet: Any, tiny_policy: Path) -> str:
    with Fleet.connect(fleet.endpoints) as client:
        return client.models.add(tiny_policy).name


def results_of(fleet: Any, run: str) -> list[aggregation_pb2.Result]:
    """Every row that the ledger has of a run."""
    with grpc.insecure_channel(fleet.endpoints["aggregation"]) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        return list(stub.ListResults(aggregation_pb2.ListResultsRequest(run=run, page_size=10_000), timeout=60).results)


@pytest.mark.usefixtures("data_dir")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", METRICS)
def test_rows_of_a_public_set_are_asked_judged_and_estimated(fleet: Any, model: str, suite: str) -> None:
    with Fleet.connect(fleet.endpoints) as client:
        run = client.runs.start(model=model, suite=suite, item_limit=ROWS)
        last = list(client.runs.watch(run.name))[-1]

    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    assert last.run.tasks
    if suite == "mmlu":
        assert len(last.run.tasks) == MMLU_SUBJECTS
    for progress in last.run.tasks:
        assert progress.item_count == ROWS
        assert (progress.scored_count, progress.failed_count) == (ROWS, 0), last.totals
    overall = [each for each in last.estimates if not each.group]
    assert {each.metric for each in overall} == METRICS[suite]
    for estimate in overall:
        assert estimate.value is not None
        assert estimate.interval is not None
        assert 0 <= estimate.interval.lower <= estimate.value <= estimate.interval.upper <= 1

    rows = results_of(fleet, run.name)
    assert len(rows) == len({(row.task, row.item, row.sample) for row in rows}) == ROWS * len(last.run.tasks)
    for row in rows:
        assert row.prompt
        assert row.usage.prompt_tokens > 0
        assert row.model_digest == last.run.model_digest
        assert row.judges
        assert all(judge.digest for judge in row.judges)


@pytest.mark.usefixtures("data_dir")
def test_the_same_run_twice_gives_the_same_items_and_answers(fleet: Any, model: str) -> None:
    answers = []
    with Fleet.connect(fleet.endpoints) as client:
        for concurrency in (1, 8):
            run = client.runs.start(model=model, suite="arc_challenge", item_limit=8, concurrency=concurrency)
            assert list(client.runs.watch(run.name))[-1].run.state is RunState.SUCCEEDED
            rows = results_of(fleet, run.name)
            answers.append({(row.item, row.draw_index, tuple(sorted(row.scored.metrics.items()))) for row in rows})
    assert answers[0] == answers[1]
