"""Comparisons over gRPC, from a ledger in a file."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2 as pb
from evalfleet.aggregation.v1 import aggregation_pb2_grpc, comparison_pb2, item_analysis_pb2, regressions_pb2
from evalfleet.common.v1 import common_pb2

from services.aggregation.ledger import SqlLedger
from services.aggregation.retention import PrunePolicy
from services.aggregation.service import hosted
from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.testing import serve_in_process

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"
NOT_INFERIOR = comparison_pb2.COMPARISON_DECISION_NOT_INFERIOR
INFERIOR = comparison_pb2.COMPARISON_DECISION_INFERIOR
UNDECIDED = comparison_pb2.COMPARISON_DECISION_UNDECIDED
COUNT = 400


@pytest.fixture
async def stub(ledger: SqlLedger) -> AsyncIterator[Stub]:
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)


async def append(stub: Stub, run: str, values: Sequence[float | None], **fields: Any) -> None:
    """Append one result an item, in draw order; None is a failure that counts as nothing."""
    prompt: Callable[[int], str] = fields.pop("prompt", lambda number: f"Question {number}?")
    metric = fields.pop("metric", "acc")

    def outcome(value: float | None) -> dict[str, Any]:
        if value is None:
            return {"failure": pb.Failure(reason="TIMEOUT")}
        return {"scored": pb.Scored(metrics={metric: value})}

    def given(number: int) -> dict[str, Any]:
        return {"task": "t", "item": f"i{number:05}", "draw_index": number, "prompt": prompt(number)} | fields

    results = [pb.Result(run=run, **given(number), **outcome(value)) for number, value in enumerate(values)]

    async def requests() -> AsyncIterator[pb.AppendResultsRequest]:
        for start in range(0, len(results), 1000):
            yield pb.AppendResultsRequest(results=results[start : start + 1000])

    await stub.AppendResults(requests())


async def compare(stub: Stub, **fields: Any) -> comparison_pb2.CompareRunsResponse:
    given = {"base_run": "runs/a", "variant_run": "runs/b"} | fields
    return await stub.CompareRuns(comparison_pb2.CompareRunsRequest(**given))


async def refusal(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


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


async def analyze(
    stub: Stub, **fields: Any
) -> tuple[item_analysis_pb2.ItemAnalysisSummary, list[item_analysis_pb2.AnalyzedItem]]:
    request = item_analysis_pb2.AnalyzeItemsRequest(**({"task": "t", "metric": "acc"} | fields))
    answers = [answer async for answer in stub.AnalyzeItems(request)]
    return answers[0].summary, [item for answer in answers for item in answer.items]


async def test_items_are_analysed_over_the_runs_of_the_ledger(stub: Stub) -> None:
    # Item 0: all right; 1: none; 2: better models do worse; the others: the better, the more right.
    for model in range(8):
        values = [1.0, 0.0, float(model < 4), *(float(model >= number) for number in range(8))]
        await append(stub, f"runs/r{model}", values, model_digest=f"m{model}")
    summary, items = await analyze(stub)
    assert [each.run for each in summary.runs] == [f"runs/r{model}" for model in reversed(range(8))]
    # Every model gets the item after the first three right too.
    assert (summary.saturated_count, summary.dead_count, summary.suspect_count) == (2, 1, 1)
    assert [each.item for each in items] == [f"i{number:05}" for number in range(11)]
    assert (items[0].saturated, items[1].dead, items[2].suspect) == (True, True, True)
    assert not items[0].HasField("discrimination")
    assert items[2].discrimination < -0.5
    assert items[6].discrimination > 0.5
    assert items[6].difficulty == pytest.approx(3 / 8)
    assert items[6].prompt_end == "Question 6?"
    _, flagged = await analyze(stub, flagged_only=True)
    assert [each.item for each in flagged] == ["i00000", "i00001", "i00002", "i00003"]


async def test_one_run_a_model_and_other_texts_are_left_out(stub: Stub) -> None:
    await append(stub, "runs/old", [1.0, 1.0], model_digest="m0")
    await append(
        stub,
        "runs/mixed",
        [1.0, 1.0],
        model_digest="m1",
        prompt=lambda number: f"{'Old q' if number else 'Q'}uestion {number}?",
    )
    await append(stub, "runs/empty", [None, None], model_digest="m2")
    await append(stub, "runs/new", [0.0, 0.0], model_digest="m0")
    summary, items = await analyze(stub)
    assert [(each.run, each.item_count, each.other_prompt_count) for each in summary.runs] == [
        ("runs/new", 2, 0),
        ("runs/mixed", 1, 1),
    ]
    assert {each.run: each.reason for each in summary.skipped_runs} == {
        "runs/old": "SAME_MODEL",
        "runs/empty": "NO_VALUES",
    }
    assert [each.run_count for each in items] == [2, 1]


async def test_near_duplicates_are_found_behind_the_same_examples(stub: Stub) -> None:
    examples = "Answer with one word. Question: what is two plus two? Answer: four. "
    chance = np.random.default_rng(0)
    words = [" ".join(str(each) for each in chance.integers(0, 9999, 30)) for _ in range(60)]
    words[7] = words[3].replace(words[3].split()[15], "changed")
    words[9] = f"  {words[5].upper()}!"
    await append(stub, "runs/a", [1.0] * 60, prompt=lambda number: examples + words[number])
    summary, items = await analyze(stub)
    groups = {each.item: each.duplicate_group for each in items if each.duplicate_group}
    assert summary.duplicates_searched
    assert summary.duplicate_count == 4
    assert groups["i00003"] == groups["i00007"] != groups["i00005"] == groups["i00009"]
    assert items[9].similarity == 1.0
    assert 0.8 <= items[7].similarity < 1.0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": ""}, "task"),
        ({"metric": ""}, "metric"),
        ({"run_limit": -1}, "run_limit"),
        ({"runs": ["x"]}, "runs[0]"),
        ({"duplicate_similarity": 0.0}, "duplicate_similarity"),
    ],
)
async def test_bad_analyses_are_refused(stub: Stub, fields: dict[str, Any], field: str) -> None:
    error = await refusal(analyze(stub, **fields))
    assert (error.code, error.field_violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_task_that_no_run_has_gives_an_empty_analysis(stub: Stub) -> None:
    summary, items = await analyze(stub)
    assert (list(summary.runs), items) == ([], [])


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
