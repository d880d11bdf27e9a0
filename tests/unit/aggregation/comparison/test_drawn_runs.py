"""Comparisons of runs whose items were drawn, over gRPC: a part of them may speak for all, but not by plain means."""

from collections.abc import AsyncIterator
from typing import TypeAlias

import numpy as np
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2 as pb
from evalfleet.aggregation.v1 import aggregation_pb2_grpc, comparison_pb2, drawing_pb2, regressions_pb2

from services.aggregation.ledger import SqlLedger
from services.aggregation.service import hosted
from services.runtime.testing import serve_in_process

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"
SIZE = 600


@pytest.fixture
async def stub(ledger: SqlLedger) -> AsyncIterator[Stub]:
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)


async def run_drawn(stub: Stub, run: str, values: dict[str, float], count: int) -> list[str]:
    """Create a run's drawing and evaluate its first ``count`` draws; return the runs of its history."""
    spec = drawing_pb2.DrawingSpec(
        run=run, task="t", metric="acc", seed=7, model=run, model_digest=run, data_digest="d", has_binary_scores=True
    )
    created = await stub.CreateDrawing(iter([drawing_pb2.CreateDrawingRequest(spec=spec, item_ids=sorted(values))]))
    done = 0
    while done < count:
        wanted = drawing_pb2.DrawItemsRequest(run=run, task="t", first_draw_index=done, count=count - done)
        draws = (await stub.DrawItems(wanted)).draws
        assert draws, "every draw so far is in, so there must be another"
        results = [
            pb.Result(
                run=run,
                task="t",
                item=draw.item_id,
                draw_index=draw.draw_index,
                prompt=f"{draw.item_id}?",
                scored=pb.Scored(metrics={"acc": values[draw.item_id]}),
            )
            for draw in draws
        ]
        await stub.AppendResults(iter([pb.AppendResultsRequest(results=results)]))
        done += len(draws)
    return list(created.drawing.history_runs)


def scores(difficulty: float = 0.0, *, seed: int = 0) -> dict[str, float]:
    """Right or wrong by item: half of the items sure, half of them on the edge, and as hard as is said."""
    chance = np.random.default_rng(seed)
    ability = np.where(np.arange(SIZE) < SIZE // 2, 1.0, 0.4 - difficulty)
    return {f"i{number:04}": float(chance.random() < ability[number]) for number in range(SIZE)}


async def compare(stub: Stub, base: str, variant: str) -> comparison_pb2.Comparison:
    request = comparison_pb2.CompareRunsRequest(base_run=base, variant_run=variant, margin=0.05)
    [found] = (await stub.CompareRuns(request)).comparisons
    return found


async def test_a_part_drawn_by_history_has_a_decision_but_no_plain_means(stub: Stub) -> None:
    base, variant = scores(seed=1), scores(0.4, seed=1)
    assert await run_drawn(stub, "runs/older", scores(seed=2), SIZE) == []
    await run_drawn(stub, "runs/base", base, SIZE)
    assert await run_drawn(stub, "runs/variant", variant, 300) == ["runs/older", "runs/base"]
    found = await compare(stub, "runs/base", "runs/variant")
    assert found.partial_draw
    assert (found.item_count, found.base_only_count) == (300, 300)
    assert not any(found.HasField(name) for name in ("difference", "interval", "p_value", "base_value"))
    decision = found.margin_decision
    assert (decision.prefix_count, decision.item_count) == (300, SIZE)
    assert decision.decision == comparison_pb2.COMPARISON_DECISION_INFERIOR
    true = (sum(variant.values()) - sum(base.values())) / SIZE
    assert decision.interval.lower <= true <= decision.interval.upper


async def test_all_items_are_all_items_however_they_were_drawn(stub: Stub) -> None:
    base, variant = scores(seed=1), scores(0.1, seed=3)
    await run_drawn(stub, "runs/base", base, SIZE)
    assert await run_drawn(stub, "runs/variant", variant, SIZE) == ["runs/base"]
    found = await compare(stub, "runs/base", "runs/variant")
    true = (sum(variant.values()) - sum(base.values())) / SIZE
    assert not found.partial_draw
    assert found.difference == pytest.approx(true)
    assert found.margin_decision.interval.lower == pytest.approx(true, abs=1e-9)
    assert found.margin_decision.interval.upper == pytest.approx(true, abs=1e-9)


async def test_a_uniform_part_keeps_its_plain_means(stub: Stub) -> None:
    base, variant = scores(seed=1), scores(0.1, seed=3)
    # Neither has a history: the older one by being the first, the other one's is the same order.
    await run_drawn(stub, "runs/base", base, 200)
    found = await compare_with_uniform(stub, variant)
    assert not found.partial_draw
    assert (found.item_count, found.HasField("difference")) == (200, True)


async def compare_with_uniform(stub: Stub, variant: dict[str, float]) -> comparison_pb2.Comparison:
    """Evaluate all of the variant without a drawing, and compare."""
    results = [
        pb.Result(
            run="runs/variant",
            task="t",
            item=item,
            draw_index=index,
            prompt=f"{item}?",
            scored=pb.Scored(metrics={"acc": value}),
        )
        for index, (item, value) in enumerate(variant.items())
    ]
    await stub.AppendResults(iter([pb.AppendResultsRequest(results=results)]))
    return await compare(stub, "runs/base", "runs/variant")


async def test_a_checkpoint_that_was_partly_drawn_by_history_is_not_watched(stub: Stub) -> None:
    await run_drawn(stub, "runs/step-0", scores(seed=1), SIZE)
    await run_drawn(stub, "runs/step-1", scores(seed=2), 200)
    await run_drawn(stub, "runs/step-2", scores(seed=3), SIZE)
    request = regressions_pb2.CheckRegressionsRequest(runs=[f"runs/step-{index}" for index in range(3)])
    [series] = (await stub.CheckRegressions(request)).series
    assert [each.skipped_reason for each in series.points] == ["", "PARTIAL_DRAW", ""]
