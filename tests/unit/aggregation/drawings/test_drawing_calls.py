"""Drawings over gRPC: what is refused and why, and what comes back."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc, drawing_pb2
from google.protobuf.json_format import ParseDict

from services.aggregation.ledger import SqlLedger
from services.aggregation.service import hosted
from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.testing import serve_in_process

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"
MessageFactory = Callable[..., aggregation_pb2.Result]
GATE: dict[str, Any] = {"gate": {"direction": "GATE_DIRECTION_AT_LEAST", "threshold": 0.4}, "alpha": 0.05}
SPEC: dict[str, Any] = {
    "run": "runs/r",
    "task": "t",
    "metric": "acc",
    "seed": 7,
    "model": "models/m",
    "data_digest": "d",
    "questions": [GATE],
}
IDS = [f"item-{index}" for index in range(100)]


@pytest.fixture
async def stub(ledger: SqlLedger) -> AsyncIterator[Stub]:
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)


async def create(stub: Stub, spec: dict[str, Any], *messages: Sequence[str]) -> drawing_pb2.Drawing:
    requests = [drawing_pb2.CreateDrawingRequest(item_ids=ids) for ids in messages]
    requests[0].spec.CopyFrom(ParseDict(spec, drawing_pb2.DrawingSpec()))
    return (await stub.CreateDrawing(iter(requests))).drawing


async def refusal(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def append(stub: Stub, messages: Sequence[aggregation_pb2.Result]) -> Sequence[drawing_pb2.TaskDecision]:
    response = await stub.AppendResults(iter([aggregation_pb2.AppendResultsRequest(results=messages)]))
    return response.decisions


def draw_request(**fields: Any) -> drawing_pb2.DrawItemsRequest:
    given: dict[str, Any] = {"run": "runs/r", "task": "t", "count": 100}
    return drawing_pb2.DrawItemsRequest(**(given | fields))


async def test_a_gate_is_decided_by_a_part_of_the_items(stub: Stub, message: MessageFactory) -> None:
    drawing = await create(stub, SPEC, IDS[:60], IDS[60:])
    assert (drawing.item_count, len(drawing.order_digest), list(drawing.history_runs)) == (100, 64, [])
    assert drawing.create_time.seconds > 0
    drawn = await stub.DrawItems(draw_request(count=40))
    assert [each.draw_index for each in drawn.draws] == list(range(40))
    assert not drawn.HasField("awaited_count")
    [decision] = await append(stub, [message(each.item_id, draw_index=each.draw_index) for each in drawn.draws])
    [answer] = decision.questions
    assert (decision.run, decision.task, decision.metric) == ("runs/r", "t", "acc")
    assert answer.state == drawing_pb2.QUESTION_STATE_PASSED
    assert 0 < answer.decided_after <= 40
    assert answer.log_evidence_pass >= 2.99 > answer.log_evidence_fail
    assert (answer.question.gate.threshold, answer.question.false_failure_alpha) == (0.4, 0.05)
    assert decision.is_decided
    assert (decision.completed_count, decision.drawn_count, decision.item_count, decision.saved_count) == (
        40,
        40,
        100,
        60,
    )
    assert (decision.value, decision.interval.confidence_level) == (1.0, 0.95)
    assert 0.39 < decision.interval.lower < decision.interval.upper == 1
    assert list((await stub.GetDecisions(drawing_pb2.GetDecisionsRequest(run="runs/r"))).decisions) == [decision]
    estimates = await stub.GetEstimates(aggregation_pb2.GetEstimatesRequest(run="runs/r"))
    [estimate] = estimates.estimates
    assert (estimate.task_interval, estimate.task_value) == (decision.interval, decision.value)


async def test_only_the_drawn_metric_has_an_interval_for_the_task(stub: Stub, message: MessageFactory) -> None:
    await create(stub, SPEC, IDS)
    [draw] = (await stub.DrawItems(draw_request(count=1))).draws
    scored = aggregation_pb2.Scored(metrics={"acc": 1.0, "f1": 1.0})
    both = aggregation_pb2.Result(run="runs/r", item=draw.item_id, scored=scored, groups={"label": "x"})
    results = [aggregation_pb2.Result(task=task) for task in ("t", "u")]
    for each in results:
        each.MergeFrom(both)
    await append(stub, results)
    estimates = (await stub.GetEstimates(aggregation_pb2.GetEstimatesRequest(run="runs/r"))).estimates
    assert [(each.task, each.metric, each.group) for each in estimates if each.HasField("task_interval")] == [
        ("t", "acc", "")
    ]


async def test_a_drawing_gives_back_its_spec(stub: Stub) -> None:
    asked = SPEC | {
        "model_digest": "m",
        "samples": 2,
        "has_binary_scores": True,
        "previous_run": "runs/p",
        "history_runs": ["runs/a"],
        "interval_alpha": 0.1,
        "history_mode": "HISTORY_MODE_AUTO",
        "questions": [
            {
                "gate": {"direction": "GATE_DIRECTION_AT_MOST", "threshold": 1},
                "alpha": 0.01,
                "false_failure_alpha": 0.2,
            },
            {"precision": {"half_width": 0.02}, "alpha": 0.05},
            {"rare_rate": {"below": 0.01}, "alpha": 0.05, "false_failure_alpha": 0.05},
        ],
    }
    assert (await create(stub, asked, IDS)).spec == ParseDict(asked, drawing_pb2.DrawingSpec())


async def test_results_without_a_drawing_decide_nothing(stub: Stub, message: MessageFactory) -> None:
    assert list(await append(stub, [message("a")])) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"run": "r"}, "spec.run"),
        ({"task": ""}, "spec.task"),
        ({"task": "a\0b"}, "spec.task"),
        ({"metric": ""}, "spec.metric"),
        ({"data_digest": ""}, "spec.data_digest"),
        ({"model": ""}, "spec.model"),
        ({"samples": -1}, "spec.samples"),
        ({"history_runs": ["runs/a", ""]}, "spec.history_runs[1]"),
        ({"previous_run": "p"}, "spec.previous_run"),
        ({"history_mode": 9}, "spec.history_mode"),
        ({"interval_alpha": 0}, "spec.interval_alpha"),
        ({"questions": [GATE | {"alpha": 0}]}, "spec.questions[0].alpha"),
        ({"questions": [GATE | {"alpha": "NaN"}]}, "spec.questions[0].alpha"),
        ({"questions": [GATE, GATE | {"false_failure_alpha": 1}]}, "spec.questions[1].false_failure_alpha"),
        ({"questions": [{"alpha": 0.05}]}, "spec.questions[0].kind"),
        ({"questions": [{"gate": {"threshold": 0.5}, "alpha": 0.05}]}, "spec.questions[0].gate.direction"),
        (
            {"questions": [{"gate": GATE["gate"] | {"threshold": 55}, "alpha": 0.05}]},
            "spec.questions[0].gate.threshold",
        ),
        ({"questions": [{"precision": {"half_width": 0}, "alpha": 0.05}]}, "spec.questions[0].precision.half_width"),
        ({"questions": [{"rare_rate": {"below": 1}, "alpha": 0.05}]}, "spec.questions[0].rare_rate.below"),
        ({"questions": [GATE] * 33}, "spec.questions"),
    ],
)
async def test_a_bad_spec_is_refused_with_the_field(stub: Stub, change: dict[str, Any], field: str) -> None:
    error = await refusal(create(stub, SPEC | change, IDS))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_DRAWING")
    assert [each.field for each in error.field_violations] == [field]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([["a", "b", "a"]], "item_ids[2]"),
        ([["a"], ["b", "a"]], "item_ids[1]"),
        ([[""]], "item_ids[0]"),
        ([[str(each) for each in range(10_001)]], "item_ids"),
        ([[]], "item_ids"),
    ],
)
async def test_bad_items_are_refused(stub: Stub, messages: list[list[str]], field: str) -> None:
    error = await refusal(create(stub, SPEC, *messages))
    assert error.reason == "INVALID_DRAWING"
    assert [each.field for each in error.field_violations] == [field]


async def test_the_spec_comes_first_and_once(stub: Stub) -> None:
    spec = ParseDict(SPEC, drawing_pb2.DrawingSpec())
    with_spec, without = drawing_pb2.CreateDrawingRequest(spec=spec), drawing_pb2.CreateDrawingRequest(item_ids=["a"])
    for requests in ([], [without], [with_spec, with_spec]):
        error = await refusal(stub.CreateDrawing(iter(requests)))
        assert [each.field for each in error.field_violations] == ["spec"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"run": "r"}, "run"),
        ({"task": ""}, "task"),
        ({"first_draw_index": -1}, "first_draw_index"),
        ({"count": 0}, "count"),
        ({"count": 10_001}, "count"),
    ],
)
async def test_a_bad_request_for_items_is_refused(stub: Stub, fields: dict[str, Any], field: str) -> None:
    error = await refusal(stub.DrawItems(draw_request(**fields)))
    assert error.reason == "INVALID_DRAWING"
    assert [each.field for each in error.field_violations] == [field]


async def test_typed_errors(stub: Stub, message: MessageFactory) -> None:
    await create(stub, SPEC, IDS)
    differs = await refusal(create(stub, SPEC, IDS[1:]))
    assert (differs.code, differs.reason) == (grpc.StatusCode.ALREADY_EXISTS, "DRAWING_DIFFERS")
    beyond = await refusal(stub.DrawItems(draw_request(first_draw_index=1)))
    assert (beyond.code, beyond.reason) == (grpc.StatusCode.OUT_OF_RANGE, "DRAW_INDEX_OUT_OF_RANGE")
    missing = await refusal(stub.GetDecisions(drawing_pb2.GetDecisionsRequest(run="runs/r", task="none")))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "DRAWING_NOT_FOUND")
    await append(stub, [message("a", task="late")])
    late = await refusal(create(stub, SPEC | {"task": "late"}, IDS))
    assert (late.code, late.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RESULTS_BEFORE_DRAWING")
    malformed = await refusal(stub.GetDecisions(drawing_pb2.GetDecisionsRequest(run="r")))
    assert malformed.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_draw_of_another_item_is_refused_and_nothing_else_of_its_message_is_lost(
    stub: Stub, message: MessageFactory
) -> None:
    await create(stub, SPEC, IDS)
    draws = (await stub.DrawItems(draw_request(count=10))).draws
    right = [message(each.item_id, draw_index=each.draw_index) for each in draws[:4]]
    swapped = [message(draws[4].item_id, draw_index=5), message(draws[5].item_id, draw_index=4)]
    beyond = message(draws[6].item_id, draw_index=10**12)
    elsewhere = message("x", task="other", draw_index=99)
    messages = [right[0], swapped[0], right[1], beyond, right[2], swapped[1], elsewhere, right[3]]
    error = await refusal(append(stub, messages))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "WRONG_DRAW_INDEX")
    assert [each.field for each in error.field_violations] == [f"results[{number}].draw_index" for number in (1, 3, 5)]
    assert (error.metadata["appended_count"], error.metadata["refused_count"]) == ("5", "3")
    [decision] = (await stub.GetDecisions(drawing_pb2.GetDecisionsRequest(run="runs/r"))).decisions
    assert decision.completed_count == 4
    # With their own draws they are taken.
    mended = [message(each.item_id, draw_index=each.draw_index) for each in draws]
    [decision] = await append(stub, mended)
    assert decision.completed_count == 10


async def test_draws_that_another_replica_handed_out_are_known(
    stub: Stub, ledger: SqlLedger, message: MessageFactory
) -> None:
    await create(stub, SPEC, IDS)
    await append(stub, [message("a", task="undrawn", draw_index=3)])
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        other: Stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        draws = (await other.DrawItems(draw_request(count=10))).draws
    [decision] = await append(stub, [message(each.item_id, draw_index=each.draw_index) for each in draws])
    assert decision.completed_count == 10
    # A task without a drawing takes any.
    assert await append(stub, [message("b", task="undrawn", draw_index=3)]) == []
