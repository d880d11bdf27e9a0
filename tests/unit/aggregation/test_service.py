"""The aggregation service over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeAlias

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.common.v1 import common_pb2

from services.aggregation.comparison.handlers import ComparisonHandlers
from services.aggregation.comparison.reading import LedgerAnswers
from services.aggregation.errors import LeaseLostError
from services.aggregation.ledger import SqlLedger
from services.aggregation.records import AppendCounts, Result, RunLease
from services.aggregation.service import AggregationServicer, hosted
from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.server import HostedService
from services.runtime.testing import serve_in_process

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"
MessageFactory = Callable[..., aggregation_pb2.Result]
Failure = aggregation_pb2.Failure


@pytest.fixture
async def stub(ledger: SqlLedger) -> AsyncIterator[Stub]:
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)


async def append(stub: Stub, *messages: Iterable[aggregation_pb2.Result]) -> tuple[int, int]:
    async def requests() -> AsyncIterator[aggregation_pb2.AppendResultsRequest]:
        for results in messages:
            yield aggregation_pb2.AppendResultsRequest(results=results)

    response = await stub.AppendResults(requests())
    return response.appended_count, response.duplicate_count


async def failure(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def page(stub: Stub, **fields: Any) -> aggregation_pb2.ListResultsResponse:
    return await stub.ListResults(aggregation_pb2.ListResultsRequest(**({"run": "runs/r"} | fields)))


async def test_appends_once(stub: Stub, message: MessageFactory) -> None:
    first, other = message("a", output="first"), message("a", failure=Failure(reason="TIMEOUT"))
    assert await append(stub, [first, other], [other], [message("b")]) == (2, 2)
    assert await append(stub, [first, message("b")]) == (0, 2)
    assert await append(stub) == (0, 0)
    stored = (await page(stub)).results
    assert [(each.item, each.output, each.WhichOneof("outcome")) for each in stored] == [
        ("a", "first", "scored"),
        ("b", "", "scored"),
    ]


async def test_a_bad_result_refuses_its_message_and_keeps_what_came_before(stub: Stub, message: MessageFactory) -> None:
    bad = message("d", sample=-1)
    error = await failure(append(stub, [message("a"), message("b")], [message("c"), bad], [message("e")]))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_RESULT")
    assert error.metadata["appended_count"] == "2"
    assert (error.metadata["message_index"], error.metadata["result_index"]) == ("1", "1")
    assert error.metadata["item"] == "d"
    assert [violation.field for violation in error.field_violations] == ["results[1].sample"]
    assert [each.item for each in (await page(stub)).results] == ["a", "b"]


async def test_pages_hold_everything_once_though_results_come_meanwhile(stub: Stub, message: MessageFactory) -> None:
    await append(stub, [message(f"{index:03}", sample=sample) for index in range(0, 60, 2) for sample in (0, 1)])
    seen: list[tuple[str, int]] = []
    token, turn = "", 0
    while True:
        answer = await page(stub, page_size=7, page_token=token)
        seen += [(each.item, each.sample) for each in answer.results]
        # One result lands before the cursor and one after it.
        await append(stub, [message(f"000-{turn}"), message(f"900-{turn}")])
        token, turn = answer.next_page_token, turn + 1
        if not token:
            break
        assert len(answer.results) == 7
    assert seen == sorted(set(seen))
    original = {(f"{index:03}", sample) for index in range(0, 60, 2) for sample in (0, 1)}
    assert original <= set(seen)


async def test_the_last_page_has_no_token(stub: Stub, message: MessageFactory) -> None:
    await append(stub, [message(str(index)) for index in range(4)])
    first = await page(stub, page_size=2)
    last = await page(stub, page_size=2, page_token=first.next_page_token)
    assert (len(first.results), len(last.results), last.next_page_token) == (2, 2, "")
    assert (await page(stub, page_size=4)).next_page_token == ""


async def test_keys_and_failures(stub: Stub, message: MessageFactory) -> None:
    late = Failure(reason="TIMEOUT", message="late", counted_as={"acc": 0.0})
    await append(stub, [message("a", prompt="p"), message("b", failure=late), message("c", task="u", failure=late)])
    keys = (await page(stub, view=aggregation_pb2.RESULT_VIEW_KEYS)).results
    assert [(each.task, each.item, each.WhichOneof("outcome"), each.failure.reason) for each in keys] == [
        ("t", "a", "scored", ""),
        ("t", "b", "failure", "TIMEOUT"),
        ("u", "c", "failure", "TIMEOUT"),
    ]
    assert [(each.run, each.prompt, each.failure.message) for each in keys] == [("runs/r", "", "")] * 3
    assert [each.item for each in (await page(stub, failed_only=True)).results] == ["b", "c"]
    assert [each.item for each in (await page(stub, failed_only=True, task="u")).results] == ["c"]
    assert list((await page(stub, task="none")).results) == []


async def test_a_page_ends_before_it_grows_too_large(ledger: SqlLedger, message: MessageFactory) -> None:
    comparisons = ComparisonHandlers(LedgerAnswers(ledger))
    servicer = AggregationServicer(ledger, page_bytes=2500, comparisons=comparisons)
    service = HostedService(
        "evalfleet.aggregation.v1.AggregationService",
        lambda server: aggregation_pb2_grpc.add_AggregationServiceServicer_to_server(servicer, server),
    )
    async with serve_in_process(service) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        sizes = [1000, 1000, 1000, 9000, 10]
        await append(stub, [message(str(index), prompt="x" * size) for index, size in enumerate(sizes)])
        pages, token = [], ""
        while True:
            answer = await page(stub, page_token=token)
            pages.append([each.item for each in answer.results])
            token = answer.next_page_token
            if not token:
                break
    assert pages == [["0", "1"], ["2"], ["3"], ["4"]]


async def test_estimates_and_totals(stub: Stub, message: MessageFactory) -> None:
    late = Failure(reason="TIMEOUT", counted_as={"acc": 0.0})
    usage = common_pb2.Usage(prompt_tokens=5, completion_tokens=2)
    usage.engine_time.FromMilliseconds(750)
    groups = {"label": "safe"}
    right = [message(str(index), usage=usage, groups=groups, truncated=index == 0) for index in range(7)]
    await append(stub, [*right, *(message(f"x{index}", usage=usage, failure=late) for index in range(3))])
    answer = await stub.GetEstimates(aggregation_pb2.GetEstimatesRequest(run="runs/r"))
    whole, safe = answer.estimates
    assert (whole.task, whole.metric, whole.group, whole.value) == ("t", "acc", "", 0.7)
    assert (whole.scored_count, whole.failed_count, whole.failed_counted, whole.sample_count) == (7, 3, 3, 10)
    assert whole.value_scored_only == 1.0
    assert whole.standard_error == pytest.approx((0.7 * 0.3 / 9) ** 0.5)
    assert whole.interval.lower == pytest.approx(0.396778, abs=1e-6)
    assert (whole.interval.method, whole.interval.confidence_level) == ("wilson", 0.95)
    assert (safe.group, safe.scored_count, safe.failed_count) == ("label=safe", 7, 0)
    [totals] = answer.totals
    assert (totals.item_count, totals.scored_count, totals.failed_count, totals.truncated_count) == (10, 7, 3, 1)
    assert dict(totals.failures_by_reason) == {"TIMEOUT": 3}
    assert (totals.usage.prompt_tokens, totals.usage.completion_tokens) == (50, 20)
    assert totals.usage.engine_time.ToMilliseconds() == 7500


async def test_absent_is_absent(stub: Stub, message: MessageFactory) -> None:
    await append(stub, [message("a", scored=aggregation_pb2.Scored(metrics={"f1": 0.5}))])
    [estimate] = (await stub.GetEstimates(aggregation_pb2.GetEstimatesRequest(run="runs/r"))).estimates
    assert estimate.value == 0.5
    assert not estimate.HasField("interval")
    assert not estimate.HasField("standard_error")
    await append(stub, [message("b", run="runs/s", failure=Failure(reason="TIMEOUT"))])
    answer = await stub.GetEstimates(aggregation_pb2.GetEstimatesRequest(run="runs/s"))
    assert list(answer.estimates) == []
    assert answer.totals[0].failed_count == 1


async def test_figures_of_sets_are_there_if_they_are_asked_for(stub: Stub, message: MessageFactory) -> None:
    answers = [(0.9, 1.0), (0.6, 0.0), (0.8, 1.0)]
    scored = [aggregation_pb2.Scored(metrics={"confidence": sure, "correct": right}) for sure, right in answers]
    await append(stub, [message(str(index), scored=each) for index, each in enumerate(scored)])
    request = aggregation_pb2.GetEstimatesRequest(run="runs/r", confidence_level=0.9)
    assert list((await stub.GetEstimates(request)).set_measures) == []
    request.with_set_measures = True
    [error] = (await stub.GetEstimates(request)).set_measures
    assert (error.task, error.name, error.group, error.item_count) == ("t", "calibration_error", "", 3)
    assert error.value == pytest.approx((0.1 + 0.6 + 0.2) / 3)
    assert (error.interval.method, error.interval.confidence_level) == ("bootstrap", 0.9)


async def test_estimates_of_one_task_at_another_level(stub: Stub, message: MessageFactory) -> None:
    await append(stub, [message(str(index), task=task) for index in range(5) for task in "tu"])
    request = aggregation_pb2.GetEstimatesRequest(run="runs/r", task="u", confidence_level=0.8)
    answer = await stub.GetEstimates(request)
    assert [(each.task, each.interval.confidence_level) for each in answer.estimates] == [("u", 0.8)]
    assert [each.task for each in answer.totals] == ["u"]


@pytest.mark.parametrize("level", [0.5, 1.0, 0.0, -1.0, float("nan")])
async def test_levels_out_of_range_are_refused(stub: Stub, level: float) -> None:
    error = await failure(stub.GetEstimates(aggregation_pb2.GetEstimatesRequest(run="runs/r", confidence_level=level)))
    assert [violation.field for violation in error.field_violations] == ["confidence_level"]


async def test_rates_are_corrected_for_their_guards_errors(stub: Stub, message: MessageFactory) -> None:
    def judged(index: int) -> aggregation_pb2.Result:
        scored = aggregation_pb2.Scored(metrics={"unsafe": float(index < 41), "acc": 1.0})
        return message(str(index), scored=scored, groups={"half": str(index % 2)})

    lost = message("z", failure=Failure(reason="TIMEOUT", counted_as={"unsafe": 1.0}))
    await append(stub, [*map(judged, range(100)), lost])
    quality = aggregation_pb2.GuardQuality(
        metric="unsafe", unsafe_count=1000, unsafe_found_count=900, safe_count=1000, safe_cleared_count=800
    )
    request = aggregation_pb2.GetEstimatesRequest(run="runs/r", guard_qualities=[quality])
    estimates = (await stub.GetEstimates(request)).estimates
    unsafe = {each.group: each for each in estimates if each.metric == "unsafe"}
    # The failed item was never judged, so its guard made no error on it.
    assert unsafe[""].corrected_rate.value == pytest.approx(0.3)
    assert unsafe[""].corrected_rate.interval.method == "lang-reiczigel"
    assert unsafe[""].corrected_rate.interval.lower < 0.3 < unsafe[""].corrected_rate.interval.upper
    assert unsafe[""].value == pytest.approx(42 / 101)
    assert set(unsafe) == {"", "half=0", "half=1"}
    assert all(each.HasField("corrected_rate") for each in unsafe.values())
    assert not any(each.HasField("corrected_rate") for each in estimates if each.metric != "unsafe")


async def test_shares_between_0_and_1_are_no_verdicts_and_stay_uncorrected(stub: Stub, message: MessageFactory) -> None:
    await append(stub, [message("a", scored=aggregation_pb2.Scored(metrics={"unsafe": 0.5})), message("b")])
    quality = aggregation_pb2.GuardQuality(
        metric="unsafe", unsafe_count=10, unsafe_found_count=9, safe_count=10, safe_cleared_count=9
    )
    request = aggregation_pb2.GetEstimatesRequest(run="runs/r", guard_qualities=[quality])
    assert not any(each.HasField("corrected_rate") for each in (await stub.GetEstimates(request)).estimates)


JUDGE = common_pb2.JudgeReference(name="guards/g", version="transformers", digest="d1")
OTHER = common_pb2.JudgeReference(name="guards/g", version="transformers", digest="d2")
SCORER = common_pb2.JudgeReference(name="scorers/x", version="1", digest="d1")
POLICY = common_pb2.JudgeReference(name="policies/strict", version="1", digest="p")
NO_GUARD = common_pb2.JudgeReference(name="guards/none", version="empty-response", digest="e")


async def corrected(stub: Stub, **judge: str) -> bool:
    """Whether the rate of ``unsafe`` is corrected for the errors of a guard."""
    quality = aggregation_pb2.GuardQuality(
        metric="unsafe", unsafe_count=10, unsafe_found_count=9, safe_count=10, safe_cleared_count=9
    )
    if judge:
        quality.judge.CopyFrom(common_pb2.JudgeReference(**judge))
    request = aggregation_pb2.GetEstimatesRequest(run="runs/r", guard_qualities=[quality])
    found = (await stub.GetEstimates(request)).estimates
    return any(each.HasField("corrected_rate") for each in found if each.metric == "unsafe")


@pytest.mark.parametrize(
    ("judges", "is_taken"),
    [
        ([[SCORER, JUDGE], [JUDGE]], True),
        ([[JUDGE], [NO_GUARD]], True),
        ([[JUDGE, OTHER]], True),
        ([[JUDGE], [OTHER]], False),
        ([[OTHER]], False),
        ([[SCORER]], False),
        ([[]], False),
        ([[JUDGE, POLICY]], False),
    ],
)
async def test_a_quality_holds_for_the_judge_that_it_was_measured_for(
    stub: Stub, message: MessageFactory, judges: list[list[common_pb2.JudgeReference]], is_taken: bool
) -> None:
    scored = aggregation_pb2.Scored(metrics={"unsafe": 1.0})
    await append(stub, [message(str(index), scored=scored, judges=each) for index, each in enumerate(judges)])
    assert await corrected(stub)
    if is_taken:
        assert await corrected(stub, name="guards/g", digest="d1")
        assert await corrected(stub, name="guards/g", digest="d1", version="transformers")
        return
    error = await failure(corrected(stub, name="guards/g", digest="d1"))
    assert error.reason == "QUALITY_OF_ANOTHER_JUDGE"
    assert (error.metadata["metric"], error.metadata["task"]) == ("unsafe", "t")
    assert error.metadata["measured_digest"] == "d1"


async def test_a_guards_quality_holds_for_its_engine_and_a_scorers_for_all_versions(
    stub: Stub, message: MessageFactory
) -> None:
    scored = aggregation_pb2.Scored(metrics={"unsafe": 1.0})
    await append(stub, [message("a", scored=scored, judges=[JUDGE, SCORER])])
    error = await failure(corrected(stub, name="guards/g", digest="d1", version="vllm"))
    assert error.reason == "QUALITY_OF_ANOTHER_JUDGE"
    assert "guards/g transformers d1" in str(error)
    assert await corrected(stub, name="scorers/x", digest="d1", version="2")


async def test_a_cascades_quality_holds_whichever_of_its_stages_decided(stub: Stub, message: MessageFactory) -> None:
    scored = aggregation_pb2.Scored(metrics={"unsafe": 1.0})
    stages = [common_pb2.JudgeReference(name="guards/g", version=f"cascade/{each}", digest="d1") for each in "ab"]
    await append(stub, [message(each.version, scored=scored, judges=[each]) for each in stages])
    assert await corrected(stub, name="guards/g", digest="d1", version="cascade")
    error = await failure(corrected(stub, name="guards/g", digest="d1", version="casc"))
    assert error.reason == "QUALITY_OF_ANOTHER_JUDGE"


async def test_items_without_a_verdict_do_not_say_who_judged(stub: Stub, message: MessageFactory) -> None:
    garbage = aggregation_pb2.MetricFailure(metrics=["unsafe"], reason="SAFETY_VERDICT_ERROR")
    scored = aggregation_pb2.Scored(metrics={"unsafe": 1.0})
    unjudged = message("b", judges=[OTHER], metric_failures=[garbage])
    others = message("c", task="u", judges=[SCORER])
    await append(stub, [message("a", scored=scored, judges=[JUDGE]), unjudged, others])
    assert await corrected(stub, name="guards/g", digest="d1")


@pytest.mark.parametrize(
    "qualities",
    [
        [
            aggregation_pb2.GuardQuality(
                metric="unsafe", unsafe_count=1, safe_count=1, judge=common_pb2.JudgeReference(name="guards/g")
            )
        ],
        [aggregation_pb2.GuardQuality(unsafe_count=1, safe_count=1)],
        [aggregation_pb2.GuardQuality(metric="unsafe")],
        [aggregation_pb2.GuardQuality(metric="unsafe", unsafe_count=1, unsafe_found_count=2, safe_count=1)],
        [aggregation_pb2.GuardQuality(metric="unsafe", unsafe_count=1, safe_count=1, safe_cleared_count=-1)],
        [aggregation_pb2.GuardQuality(metric="unsafe", unsafe_count=1, safe_count=1)] * 2,
    ],
)
async def test_guard_qualities_that_cannot_be_are_refused(
    stub: Stub, qualities: list[aggregation_pb2.GuardQuality]
) -> None:
    request = aggregation_pb2.GetEstimatesRequest(run="runs/r", guard_qualities=qualities)
    error = await failure(stub.GetEstimates(request))
    assert error.field_violations[0].field.startswith(f"guard_qualities[{len(qualities) - 1}]")


async def test_an_unknown_run_is_not_found(stub: Stub, message: MessageFactory) -> None:
    await append(stub, [message("a", run="runs/step-1200")])
    for call in (
        stub.GetEstimates(aggregation_pb2.GetEstimatesRequest(run="runs/step-1201")),
        page(stub, run="runs/step-1201"),
    ):
        error = await failure(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
        assert error.metadata["nearest"] == "runs/step-1200"


@pytest.mark.parametrize("run", ["", "r", "runs/"])
async def test_a_run_is_a_resource_name(stub: Stub, run: str) -> None:
    error = await failure(page(stub, run=run))
    assert (error.code, error.field_violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, "run")


async def test_a_token_belongs_to_its_list(stub: Stub, message: MessageFactory) -> None:
    await append(stub, [message(str(index)) for index in range(4)])
    token = (await page(stub, page_size=2)).next_page_token
    for fields in ({"task": "t"}, {"failed_only": True}, {"run": "runs/s"}, {"page_token": token[:-2]}):
        error = await failure(page(stub, **({"page_token": token} | fields)))
        assert error.reason == "INVALID_PAGE_TOKEN"
    assert (await failure(page(stub, page_size=-1))).reason == "INVALID_PAGE_SIZE"


async def append_as(stub: Stub, epoch: int, *items: aggregation_pb2.Result, run: str = "runs/r") -> int:
    """Append under a lease; returns how many were new."""

    async def requests() -> AsyncIterator[aggregation_pb2.AppendResultsRequest]:
        yield aggregation_pb2.AppendResultsRequest(results=items, lease=aggregation_pb2.RunLease(run=run, epoch=epoch))

    return int((await stub.AppendResults(requests())).appended_count)


async def test_a_worker_that_lost_its_run_appends_nothing_any_more(stub: Stub, message: MessageFactory) -> None:
    assert await append_as(stub, 2, message("a")) == 1
    assert await append_as(stub, 2, message("b")) == 1
    assert await append_as(stub, 3) == 0
    error = await failure(append_as(stub, 2, message("c")))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_LEASE_LOST")
    assert (error.metadata["epoch"], error.metadata["newest_epoch"]) == ("2", "3")
    assert await append_as(stub, 3, message("a", output="other"), message("d")) == 1
    assert await append_as(stub, 1, message("a", run="runs/other"), run="runs/other") == 1
    assert await append(stub, [message("e")]) == (1, 0)
    assert [each.item for each in (await page(stub)).results] == ["a", "b", "d", "e"]


async def test_a_lost_lease_leaves_those_alone_who_share_its_transaction(
    ledger: SqlLedger, result: Callable[..., Result]
) -> None:
    appends = [
        ledger.append([result("old")], RunLease("runs/r", 1)),
        ledger.append([result("new")], RunLease("runs/r", 2)),
        ledger.append([result("a", run="runs/s")], RunLease("runs/s", 1)),
        ledger.append([result("a", run="runs/t")]),
    ]
    lost, *others = await asyncio.gather(*appends, return_exceptions=True)
    assert isinstance(lost, LeaseLostError)
    assert others == [AppendCounts(1, 0)] * 3


@pytest.mark.parametrize(
    "lease",
    [
        aggregation_pb2.RunLease(run="runs/r", epoch=0),
        aggregation_pb2.RunLease(run="r", epoch=1),
        aggregation_pb2.RunLease(run="runs/", epoch=1),
        aggregation_pb2.RunLease(run="runs/\0", epoch=1),
        aggregation_pb2.RunLease(run="runs/" + "r" * 600, epoch=1),
        aggregation_pb2.RunLease(run="runs/other", epoch=1),
    ],
)
async def test_a_lease_that_cannot_be_refuses_its_message(
    stub: Stub, message: MessageFactory, lease: aggregation_pb2.RunLease
) -> None:
    request = aggregation_pb2.AppendResultsRequest(results=[message("a")], lease=lease)
    error = await failure(stub.AppendResults(iter([request])))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_RESULT")
    assert [violation.field for violation in error.field_violations] == ["lease"]
