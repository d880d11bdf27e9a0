"""RankRuns over gRPC: who is out, after how many items, and what is refused."""

import random
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2 as pb
from evalfleet.aggregation.v1 import aggregation_pb2_grpc, drawing_pb2, ranking_pb2

from services.aggregation.ledger import SqlLedger
from services.aggregation.service import hosted
from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.testing import serve_in_process

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"
SIZE = 600
IDS = [f"i{number:04}" for number in range(SIZE)]


@pytest.fixture
async def stub(ledger: SqlLedger) -> AsyncIterator[Stub]:
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)


class Player:
    """A run whose items are drawn in an order that the seed alone decides."""

    def __init__(self, stub: Stub, run: str, share: float, seed: int) -> None:
        self.run = run
        self.values = dict(zip(IDS, (np.random.default_rng(seed).random(SIZE) < share).astype(float), strict=True))
        self._stub = stub
        self._draws: list[drawing_pb2.Draw] = []

    async def create(self, **fields: Any) -> "Player":
        given: dict[str, Any] = {
            "run": self.run,
            "task": "t",
            "metric": "acc",
            "seed": 7,
            "model": self.run,
            "data_digest": "d",
            "history_mode": drawing_pb2.HISTORY_MODE_NONE,
        }
        spec = drawing_pb2.DrawingSpec(**(given | fields))
        await self._stub.CreateDrawing(iter([drawing_pb2.CreateDrawingRequest(spec=spec, item_ids=IDS)]))
        request = drawing_pb2.DrawItemsRequest(run=self.run, task="t", first_draw_index=0, count=SIZE)
        self._draws = list((await self._stub.DrawItems(request)).draws)
        return self

    async def evaluate(self, first: int, last: int, *, failed: bool = False) -> None:
        """Append the results of some draws, in any order."""
        draws = self._draws[first:last]
        random.Random(first).shuffle(draws)
        results = [
            pb.Result(run=self.run, task="t", item=each.item_id, draw_index=each.draw_index, prompt="p")
            for each in draws
        ]
        for result in results:
            if failed:
                result.failure.reason = "PROMPT_TOO_LONG"
            else:
                result.scored.metrics["acc"] = self.values[result.item]
        await self._stub.AppendResults(iter([pb.AppendResultsRequest(results=results)]))


async def players(stub: Stub, *shares: float) -> list[Player]:
    return [await Player(stub, f"runs/m{number}", share, number).create() for number, share in enumerate(shares)]


async def rank(stub: Stub, runs: list[Player], **fields: Any) -> ranking_pb2.RankRunsResponse:
    request = ranking_pb2.RankRunsRequest(runs=[each.run for each in runs], task="t", **({"top": 1} | fields))
    return await stub.RankRuns(request)


async def refusal(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def standings(response: ranking_pb2.RankRunsResponse) -> list[str]:
    return [ranking_pb2.Standing.Name(each.standing).removeprefix("STANDING_") for each in response.runs]


async def test_losers_are_out_and_the_best_is_known_before_the_items_are_used_up(stub: Stub) -> None:
    runs = await players(stub, 0.1, 0.8, 0.65)
    for run in runs:
        await run.evaluate(0, 40)
    early = await rank(stub, runs)
    assert (early.compared_count, early.item_count) == (32, SIZE)
    for run in runs:
        await run.evaluate(40, 560)
    response = await rank(stub, runs)
    assert standings(response) == ["OUT", "TOP", "OUT"]
    assert response.is_decided
    loser, best, middling = response.runs
    assert loser.decided_after < middling.decided_after <= response.compared_count < 560
    assert best.decided_after == response.compared_count
    for run, judged in zip(runs, response.runs, strict=True):
        true = sum(run.values.values()) / SIZE
        assert judged.interval.lower <= true <= judged.interval.upper
        assert (judged.completed_count, judged.evaluated_count) == (560, 560)


async def test_with_a_tolerance_runs_that_are_alike_are_tied_before_the_items_are_used_up(stub: Stub) -> None:
    runs = [
        await Player(stub, f"runs/m{number}", share, seed).create()
        for number, (share, seed) in enumerate([(0.1, 1), (0.8, 2), (0.8, 2)])
    ]
    for run in runs:
        await run.evaluate(0, 400)
    exactly = await rank(stub, runs)
    assert standings(exactly) == ["OUT", "CONTENDING", "CONTENDING"]
    assert not exactly.is_decided
    response = await rank(stub, runs, tolerance=0.05)
    assert standings(response) == ["OUT", "TOP", "TIED"]
    assert response.is_decided
    assert response.compared_count < 400
    assert [each.decided_after for each in response.runs[1:]] == [response.compared_count] * 2


async def test_who_asks_when_changes_nothing(stub: Stub, ledger: SqlLedger) -> None:
    runs = await players(stub, 0.4, 0.75, 0.6)
    for first in range(0, 300, 20):
        for run in runs:
            await run.evaluate(first, first + 20)
        often = await rank(stub, runs)
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        once = await rank(aggregation_pb2_grpc.AggregationServiceStub(channel), runs)
    assert often == once


async def test_a_run_that_is_out_is_not_waited_for(stub: Stub) -> None:
    runs = await players(stub, 0.05, 0.9, 0.88)
    for run in runs:
        await run.evaluate(0, 100)
    assert standings(await rank(stub, runs)) == ["OUT", "CONTENDING", "CONTENDING"]
    for run in runs[1:]:
        await run.evaluate(100, SIZE)
    response = await rank(stub, runs)
    assert response.is_decided
    assert response.compared_count > 100


async def test_items_behind_a_hole_do_not_count(stub: Stub) -> None:
    runs = await players(stub, 0.05, 0.95)
    await runs[0].evaluate(0, 300)
    await runs[1].evaluate(1, 300)
    response = await rank(stub, runs)
    assert (response.compared_count, standings(response)) == (0, ["CONTENDING", "CONTENDING"])


async def test_less_may_be_better(stub: Stub) -> None:
    runs = await players(stub, 0.9, 0.2)
    for run in runs:
        await run.evaluate(0, 160)
    assert standings(await rank(stub, runs, lower_is_better=True)) == ["OUT", "TOP"]


async def test_failed_items_without_a_value_leave_it_open(stub: Stub) -> None:
    runs = await players(stub, 0.2, 0.8)
    await runs[0].evaluate(0, SIZE, failed=True)
    await runs[1].evaluate(0, SIZE)
    response = await rank(stub, runs)
    assert (response.compared_count, response.is_decided) == (SIZE, False)
    assert standings(response) == ["CONTENDING", "CONTENDING"]


async def test_a_margin_judges_each_run_against_the_first(stub: Stub) -> None:
    base = await Player(stub, "runs/base", 0.7, 1).create()
    same = await Player(stub, "runs/same", 0.7, 1).create()
    worse = await Player(stub, "runs/worse", 0.3, 2).create()
    runs = [base, same, worse]
    for run in runs:
        await run.evaluate(0, 20)
    early = await rank(stub, runs, margin=0.05)
    assert standings(early)[:2] == ["CONTENDING", "CONTENDING"]
    for run in runs:
        await run.evaluate(20, 400)
    response = await rank(stub, runs, margin=0.05)
    assert standings(response) == ["BASE", "NOT_INFERIOR", "INFERIOR"]
    assert response.is_decided
    assert not response.runs[0].HasField("difference")
    assert response.runs[1].difference.lower > -0.05
    assert response.runs[2].difference.upper < -0.05
    assert 0 < response.runs[1].decided_after < 400


async def test_the_difference_is_of_the_metric_where_less_is_better(stub: Stub) -> None:
    runs = await players(stub, 0.2, 0.6)
    for run in runs:
        await run.evaluate(0, SIZE)
    response = await rank(stub, runs, margin=0.05, lower_is_better=True)
    true = (sum(runs[1].values.values()) - sum(runs[0].values.values())) / SIZE
    assert standings(response) == ["BASE", "INFERIOR"]
    assert response.runs[1].difference.lower <= true + 1e-6
    assert response.runs[1].difference.upper >= true - 1e-6


@pytest.mark.parametrize(
    "fields",
    [{"seed": 8}, {"data_digest": "other"}, {"metric": "other"}, {"history_mode": drawing_pb2.HISTORY_MODE_AUTO}],
)
async def test_runs_of_another_order_or_with_history_are_refused(stub: Stub, fields: dict[str, Any]) -> None:
    first = await Player(stub, "runs/a", 0.5, 1).create()
    second = await Player(stub, "runs/b", 0.5, 2).create(**fields)
    error = await refusal(rank(stub, [first, second]))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RUNS_NOT_COMPARABLE")


@pytest.mark.parametrize(
    "fields",
    [
        {"runs": ["runs/a"], "top": 1},
        {"runs": ["runs/a", "runs/a"], "top": 1},
        {"runs": ["runs/a", "b"], "top": 1},
        {"runs": ["runs/a", "runs/b"], "top": 2},
        {"runs": ["runs/a", "runs/b"], "top": 0},
        {"runs": ["runs/a", "runs/b"], "margin": 1.0},
        {"runs": ["runs/a", "runs/b"], "margin": float("nan")},
        {"runs": ["runs/a", "runs/b"]},
        {"runs": ["runs/a", "runs/b"], "top": 1, "task": ""},
        {"runs": ["runs/a", "runs/b"], "top": 1, "confidence_level": 1.0},
        {"runs": ["runs/a", "runs/b"], "top": 1, "tolerance": 1.0},
        {"runs": ["runs/a", "runs/b"], "top": 1, "tolerance": -0.1},
        {"runs": ["runs/a", "runs/b"], "top": 1, "tolerance": float("nan")},
        {"runs": ["runs/a", "runs/b"], "margin": 0.1, "tolerance": 0.1},
        {"runs": [f"runs/{number}" for number in range(33)], "top": 1},
    ],
)
async def test_requests_that_cannot_be_are_refused(stub: Stub, fields: dict[str, Any]) -> None:
    request = ranking_pb2.RankRunsRequest(**({"task": "t"} | fields))
    assert (await refusal(stub.RankRuns(request))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_run_without_a_drawing_is_not_found(stub: Stub) -> None:
    known = await Player(stub, "runs/a", 0.5, 1).create()
    request = ranking_pb2.RankRunsRequest(runs=[known.run, "runs/nobody"], task="t", top=1)
    assert (await refusal(stub.RankRuns(request))).code is grpc.StatusCode.NOT_FOUND
