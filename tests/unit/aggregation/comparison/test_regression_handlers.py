"""Watches along checkpoints over gRPC, from a ledger in a file."""

from typing import Any

import grpc
import numpy as np
import pytest
from evalfleet.aggregation.v1 import regressions_pb2

from services.aggregation.ledger import SqlLedger
from services.aggregation.retention import PrunePolicy
from tests.unit.aggregation.comparison.served import Stub, append, refusal


async def test_a_drop_along_checkpoints_is_an_alarm(stub: Stub) -> None:
    chance = np.random.default_rng(4)
    difficulty, runs = chance.random(1500), []
    for index, mean in enumerate([0.6, 0.61, 0.6, 0.6, 0.45, 0.45]):
        wobbles = chance.random(1500) < 0.05
        right = np.where(wobbles, chance.random(1500) < mean, difficulty < mean).astype(float)
        runs.append(f"runs/step-{index}")
        await append(stub, runs[-1], right.tolist())
        await append(stub, runs[-1], (1 - right).tolist(), task="harm", metric="unsafe")
    watched = [
        regressions_pb2.WatchedMetric(task="t", metric="acc"),
        regressions_pb2.WatchedMetric(task="harm", metric="unsafe", lower_is_better=True),
    ]
    answer = await stub.CheckRegressions(regressions_pb2.CheckRegressionsRequest(runs=runs, metrics=watched))
    assert [(each.task, each.run, each.change_index) for each in answer.alarms] == [
        ("harm", "runs/step-4", 4),
        ("t", "runs/step-4", 4),
    ]
    alarm = answer.alarms[1]
    assert alarm.difference == pytest.approx(-0.15, abs=0.03)
    assert alarm.log_evidence >= alarm.log_threshold
    assert (len(alarm.lost_items), alarm.item_count) == (100, 1500)
    assert alarm.lost_count > alarm.gained_count
    points = answer.series[1].points
    assert [each.run_index for each in points] == list(range(6))
    assert points[4].lost_count == alarm.lost_count
    # What is known of the first checkpoints does not change when more come.
    shorter = await stub.CheckRegressions(regressions_pb2.CheckRegressionsRequest(runs=runs[:4], metrics=watched))
    assert list(shorter.series[1].points) == list(points[:4])
    assert not shorter.alarms


async def test_checkpoints_that_cannot_be_watched_say_why(stub: Stub) -> None:
    await append(stub, "runs/a", [1.0] * 50)
    await append(stub, "runs/b", [0.0] * 50, prompt=lambda number: f"Other {number}?")
    await append(stub, "runs/c", [7.0] * 50)
    await append(stub, "runs/d", [1.0] * 50, task="other")
    await append(stub, "runs/e", [0.0] * 50)
    request = regressions_pb2.CheckRegressionsRequest(runs=[f"runs/{each}" for each in "abcde"])
    [series] = (await stub.CheckRegressions(request)).series
    assert [each.skipped_reason for each in series.points] == [
        "",
        "PROMPTS_DIFFER",
        "VALUES_OUT_OF_RANGE",
        "NO_VALUES",
        "",
    ]
    # The fall from the first to the last is seen across those between.
    assert series.points[4].lost_count == 50


async def test_a_checkpoint_whose_results_were_deleted_does_not_hide_the_others(stub: Stub, ledger: SqlLedger) -> None:
    for run in "abcd":
        await append(stub, f"runs/{run}", [float(run != "d")] * 50)
    await ledger.prune(PrunePolicy(("runs/a", "runs/c"), runs_have_ended=True))
    for metrics in ((), (regressions_pb2.WatchedMetric(task="t", metric="acc"),)):
        runs = [f"runs/{each}" for each in "abcd"]
        request = regressions_pb2.CheckRegressionsRequest(runs=runs, metrics=metrics)
        [series] = (await stub.CheckRegressions(request)).series
        reasons = [(each.run_index, each.skipped_reason) for each in series.points]
        assert reasons == [(0, "RESULTS_DELETED"), (1, ""), (2, "RESULTS_DELETED"), (3, "")]
        assert series.points[3].lost_count == 50


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"runs": ["runs/a"]}, "runs"),
        ({"runs": ["runs/a", "runs/a"]}, "runs"),
        ({"runs": ["runs/a", "b"]}, "runs[1]"),
        ({"tolerance": -0.01}, "tolerance"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate"),
        ({"metrics": [{"metric": "acc"}]}, "metrics[0].task"),
    ],
)
async def test_bad_watches_are_refused(stub: Stub, fields: dict[str, Any], field: str) -> None:
    request = regressions_pb2.CheckRegressionsRequest(**({"runs": ["runs/a", "runs/b"]} | fields))
    error = await refusal(stub.CheckRegressions(request))
    assert (error.code, error.field_violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
