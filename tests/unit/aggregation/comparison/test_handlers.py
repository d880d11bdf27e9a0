"""Comparisons over gRPC, from a ledger in a file."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2 as pb
from evalfleet.aggregation.v1 import comparison_pb2, regressions_pb2
from evalfleet.common.v1 import common_pb2

from tests.unit.aggregation.comparison.served import Stub, append, refusal

NOT_INFERIOR = comparison_pb2.COMPARISON_DECISION_NOT_INFERIOR
INFERIOR = comparison_pb2.COMPARISON_DECISION_INFERIOR
UNDECIDED = comparison_pb2.COMPARISON_DECISION_UNDECIDED
COUNT = 400


async def compare(stub: Stub, **fields: Any) -> comparison_pb2.CompareRunsResponse:
    given = {"base_run": "runs/a", "variant_run": "runs/b"} | fields
    return await stub.CompareRuns(comparison_pb2.CompareRunsRequest(**given))


def rights(lost: int = 0, gained: int = 0, count: int = COUNT) -> tuple[list[float], list[float]]:
    """Scores of two runs: the items that one alone gets right come in no order."""
    base = np.zeros(count)
    base[: count // 2] = 1
    variant = base.copy()
    variant[:lost] = 0
    variant[count // 2 : count // 2 + gained] = 1
    order = np.random.default_rng(0).permutation(count)
    return base[order].tolist(), variant[order].tolist()


async def test_two_runs_item_by_item(stub: Stub) -> None:
    base, variant = rights(lost=30, gained=10)
    await append(stub, "runs/a", base)
    await append(stub, "runs/b", variant)
    [found] = (await compare(stub)).comparisons
    assert (found.task, found.metric, found.item_count) == ("t", "acc", COUNT)
    assert (found.base_value, found.variant_value) == (0.5, 0.45)
    assert found.difference == pytest.approx(-0.05)
    assert (found.variant_higher_count, found.base_higher_count) == (10, 30)
    assert found.p_value == pytest.approx(0.0022, abs=1e-4)
    assert found.p_value_method == "mcnemar-exact"
    assert found.interval.lower < -0.05 < found.interval.upper < 0
    assert found.pairing == comparison_pb2.PAIRING_PAIRED
    assert not found.HasField("margin_decision")


@pytest.mark.parametrize(
    ("changed", "lower_is_better", "decision"),
    [
        ((4, 4), False, NOT_INFERIOR),
        ((100, 0), False, INFERIOR),
        ((0, 100), True, INFERIOR),
        ((100, 0), True, NOT_INFERIOR),
    ],
)
async def test_a_margin_is_decided_on_all_items(
    stub: Stub, changed: tuple[int, int], lower_is_better: bool, decision: int
) -> None:
    base, variant = rights(*changed)
    await append(stub, "runs/a", base)
    await append(stub, "runs/b", variant)
    metric = comparison_pb2.ComparedMetric(task="t", metric="acc", lower_is_better=lower_is_better)
    answer = await compare(stub, metrics=[metric], margin=0.05)
    [found] = answer.comparisons
    assert (answer.decision, found.margin_decision.decision) == (decision, decision)
    assert 0 < found.margin_decision.decided_after < COUNT
    assert found.margin_decision.interval.lower <= found.difference <= found.margin_decision.interval.upper
    assert found.margin_decision.superior == (decision == NOT_INFERIOR and lower_is_better)


async def test_a_variant_that_is_still_running_is_judged_on_its_prefix(stub: Stub) -> None:
    base, variant = rights(gained=80, count=1000)
    await append(stub, "runs/a", base)
    # The item drawn third is not back yet, and nothing behind it counts.
    await append(stub, "runs/b", variant[:2])
    results = [
        pb.Result(
            run="runs/b",
            task="t",
            item=f"i{number:05}",
            draw_index=number,
            prompt=f"Question {number}?",
            scored=pb.Scored(metrics={"acc": variant[number]}),
        )
        for number in range(3, 900)
    ]

    async def send(rest: list[pb.Result]) -> AsyncIterator[pb.AppendResultsRequest]:
        yield pb.AppendResultsRequest(results=rest)

    await stub.AppendResults(send(results))
    [waiting] = (await compare(stub, margin=0.05)).comparisons
    assert (waiting.margin_decision.decision, waiting.margin_decision.prefix_count) == (UNDECIDED, 2)
    assert waiting.margin_decision.undecided_reason == "MORE_ITEMS_NEEDED"
    assert (waiting.item_count, waiting.base_only_count, waiting.margin_decision.item_count) == (899, 101, 1000)
    third = pb.Result(
        run="runs/b",
        task="t",
        item="i00002",
        draw_index=2,
        prompt="Question 2?",
        scored=pb.Scored(metrics={"acc": variant[2]}),
    )
    await stub.AppendResults(send([third]))
    metric = comparison_pb2.ComparedMetric(task="t", metric="acc", item_count=1000)
    [decided] = (await compare(stub, margin=0.05, metrics=[metric])).comparisons
    assert (decided.margin_decision.decision, decided.margin_decision.prefix_count) == (NOT_INFERIOR, 900)
    assert decided.margin_decision.decided_after < 900


async def test_what_cannot_be_paired_is_refused_or_marked(stub: Stub) -> None:
    base, variant = rights(lost=20)
    await append(stub, "runs/a", base)
    await append(stub, "runs/b", variant, prompt=lambda number: f"Other question {number}?")
    error = await refusal(compare(stub))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RUNS_NOT_COMPARABLE")
    assert (error.metadata["tasks"], error.metadata["reasons"]) == ("t", "PROMPTS_DIFFER")
    answer = await compare(stub, allow_unpaired=True, margin=0.05)
    [found] = answer.comparisons
    assert (found.pairing, list(found.unpaired_reasons)) == (comparison_pb2.PAIRING_UNPAIRED, ["PROMPTS_DIFFER"])
    assert (found.p_value_method, found.interval.method, found.item_count) == ("welch-t", "welch-t", 2 * COUNT)
    assert (answer.decision, found.margin_decision.undecided_reason) == (UNDECIDED, "UNPAIRED")


@pytest.mark.parametrize("reason", ["DATA_DIFFERS", "JUDGES_DIFFER", "NO_COMMON_ITEMS"])
async def test_other_reasons_not_to_pair(stub: Stub, reason: str) -> None:
    def judge(digest: str) -> list[common_pb2.JudgeReference]:
        return [common_pb2.JudgeReference(name="scorers/x", version="1", digest=digest)]

    await append(stub, "runs/a", [1.0] * 20, judges=judge("a"))
    if reason == "NO_COMMON_ITEMS":
        results = [
            pb.Result(run="runs/b", task="t", item=f"other{n}", scored=pb.Scored(metrics={"acc": 1})) for n in range(9)
        ]

        async def send() -> AsyncIterator[pb.AppendResultsRequest]:
            yield pb.AppendResultsRequest(results=results)

        await stub.AppendResults(send())
    else:
        await append(stub, "runs/b", [1.0] * 20, judges=judge("b" if reason == "JUDGES_DIFFER" else "a"))
    digests = ("x", "y") if reason == "DATA_DIFFERS" else ("x", "x")
    metric = comparison_pb2.ComparedMetric(task="t", metric="acc", base_digest=digests[0], variant_digest=digests[1])
    assert (await refusal(compare(stub, metrics=[metric]))).metadata["reasons"] == reason


async def test_failed_items_are_told_and_taken_at_the_worst(stub: Stub) -> None:
    await append(stub, "runs/a", [1.0] * 100)
    await append(stub, "runs/b", [None if number % 10 == 0 else 1.0 for number in range(100)])
    [found] = (await compare(stub, margin=0.2, confidence_level=0.999999)).comparisons
    assert (found.item_count, found.excluded_count, found.difference) == (90, 10, 0.0)
    assert found.margin_decision.decision == NOT_INFERIOR
    [found] = (await compare(stub, margin=0.05, confidence_level=0.999999)).comparisons
    assert found.margin_decision.undecided_reason == "VALUES_MISSING"


async def test_runs_without_a_draw_order_are_decided_when_complete(stub: Stub) -> None:
    base, variant = rights(lost=1, gained=1)
    await append(stub, "runs/a", base, draw_index=0)
    await append(stub, "runs/b", variant, draw_index=0)
    [found] = (await compare(stub, margin=0.05)).comparisons
    assert found.margin_decision.decision == NOT_INFERIOR
    metric = comparison_pb2.ComparedMetric(task="t", metric="acc", item_count=COUNT + 1)
    [found] = (await compare(stub, margin=0.05, metrics=[metric])).comparisons
    assert (found.margin_decision.decision, found.margin_decision.prefix_count) == (UNDECIDED, 1)


async def test_values_beyond_shares_have_numbers_but_no_verdict(stub: Stub) -> None:
    await append(stub, "runs/a", [3.0, 4.0, 5.0], metric="bleu")
    await append(stub, "runs/b", [3.5, 4.0, 6.5], metric="bleu")
    [found] = (await compare(stub, margin=0.05)).comparisons
    assert found.difference == pytest.approx(2 / 3)
    assert found.margin_decision.undecided_reason == "VALUES_OUT_OF_RANGE"


async def test_several_metrics_and_clusters(stub: Stub) -> None:
    base, variant = rights(lost=30, gained=5)
    for task in ("t", "u"):
        await append(stub, "runs/a", base, task=task, groups={"passage": "p"})
        await append(stub, "runs/b", variant, task=task)
    answer = await compare(stub, margin=0.0)
    first, second = answer.comparisons
    assert answer.decision == INFERIOR
    assert first.adjusted_p_value == pytest.approx(2 * first.p_value)
    assert not first.HasField("cluster_count")
    [clustered] = (await compare(stub, metrics=[{"task": "u", "metric": "acc"}], cluster_column="part")).comparisons
    assert clustered.cluster_count == COUNT
    assert second.task == clustered.task


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"variant_run": "runs/a"}, "variant_run"),
        ({"base_run": "a"}, "base_run"),
        ({"margin": -0.1}, "margin"),
        ({"margin": 1.0}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"confidence_level": 0.5}, "confidence_level"),
        ({"metrics": [{"task": "t"}]}, "metrics[0].metric"),
        ({"metrics": [{"task": "t", "metric": "acc"}] * 2}, "metrics"),
        ({"metrics": [{"task": "t", "metric": "acc", "item_count": 0}]}, "metrics[0].item_count"),
    ],
)
async def test_bad_comparisons_are_refused(stub: Stub, fields: dict[str, Any], field: str) -> None:
    error = await refusal(compare(stub, **fields))
    assert (error.code, error.field_violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_an_unknown_run_is_not_found(stub: Stub) -> None:
    await append(stub, "runs/a", [1.0])
    assert (await refusal(compare(stub))).reason == "RUN_NOT_FOUND"
    unknown = regressions_pb2.CheckRegressionsRequest(runs=["runs/a", "runs/b"])
    assert (await refusal(stub.CheckRegressions(unknown))).reason == "RUN_NOT_FOUND"
