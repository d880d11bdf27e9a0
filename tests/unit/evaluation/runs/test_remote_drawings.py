"""Drawings over the wire: nothing of a decision is lost on the way, and ids go in messages that fit."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, drawing_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.runs.decisions import Answer, QuestionDecision, TaskDecision
from services.evaluation.runs.drawing_messages import decision_from_proto, decision_to_proto
from services.evaluation.runs.drawings import Draw, DrawingRequest
from services.evaluation.runs.gates import Direction, Gate, Precision, TaskQuestions
from services.evaluation.runs.remote_drawings import RemoteDrawings
from services.evaluation.runs.stored_goal import decision_from_row, decision_to_row
from services.runtime.errors import NotFoundError

SHARE = st.floats(0, 1)
COUNT = st.integers(0, 10**6)
QUESTION = st.builds(
    QuestionDecision,
    question=st.builds(Gate, st.just("t"), st.sampled_from(Direction), SHARE, st.just("m"))
    | st.builds(Precision, st.floats(0.001, 0.5)),
    alpha=SHARE,
    answer=st.sampled_from(Answer),
    decided_after=st.none() | COUNT,
    log_evidence_pass=st.none() | st.floats(-100, 100),
    log_evidence_fail=st.none() | st.floats(-100, 100),
)
DECISION = st.builds(
    TaskDecision,
    task=st.just("t"),
    metric=st.just("m"),
    questions=st.lists(QUESTION, max_size=3).map(tuple),
    is_decided=st.booleans(),
    value=st.none() | SHARE,
    lower=SHARE,
    upper=SHARE,
    confidence_level=SHARE,
    method=st.just("betting"),
    completed_count=COUNT,
    drawn_count=COUNT,
    item_count=COUNT,
    saved_count=COUNT,
    unknown_count=COUNT,
    is_exact=st.booleans(),
    draws_digest=st.just("d" * 64),
    expected_remaining_count=st.none() | COUNT,
)


@given(decision=DECISION)
def test_a_decision_survives_the_wire_and_the_list_of_runs(decision: TaskDecision) -> None:
    assert decision_from_proto(decision_to_proto("runs/r", decision)) == decision
    assert decision_from_row(decision_to_row(decision)) == decision


def test_evidence_without_bounds_can_be_stored() -> None:
    question = QuestionDecision(Precision(0.1), 0.05, Answer.FAILED, 7, -math.inf, math.inf)
    decision = TaskDecision("t", "m", (question,), True, 0.5, 0.4, 0.6, 0.95, "betting", 7, 7, 10, 3)
    row = json.loads(json.dumps(decision_to_row(decision), allow_nan=False))
    (stored,) = decision_from_row(row).questions
    assert (stored.answer, stored.log_evidence_pass, stored.log_evidence_fail) == (Answer.FAILED, None, None)


def test_an_answer_that_this_version_does_not_know_decides_nothing() -> None:
    message = drawing_pb2.TaskDecision(task="t", questions=[drawing_pb2.QuestionDecision()])
    assert decision_from_proto(message).questions[0].answer is Answer.UNDECIDED


class FakeDesk:
    """Notes what it is asked, and draws item 7."""

    def __init__(self) -> None:
        self.created: list[drawing_pb2.CreateDrawingRequest] = []

    async def CreateDrawing(
        self, request_iterator: AsyncIterator[drawing_pb2.CreateDrawingRequest], context: Any
    ) -> drawing_pb2.CreateDrawingResponse:
        self.created = [each async for each in request_iterator]
        return drawing_pb2.CreateDrawingResponse()

    async def DrawItems(self, request: drawing_pb2.DrawItemsRequest, context: Any) -> drawing_pb2.DrawItemsResponse:
        if request.first_draw_index == 0:
            draw = drawing_pb2.Draw(position=7, item_id="q7", draw_index=0, probability=0.5)
            return drawing_pb2.DrawItemsResponse(draws=[draw], is_exhausted=True)
        return drawing_pb2.DrawItemsResponse(awaited_count=32)

    async def GetDecisions(
        self, request: drawing_pb2.GetDecisionsRequest, context: Any
    ) -> drawing_pb2.GetDecisionsResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such drawing")
        raise AssertionError("abort raises")


@asynccontextmanager
async def drawings(desk: FakeDesk) -> AsyncIterator[RemoteDrawings]:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "CreateDrawing": grpc.stream_unary_rpc_method_handler(
            desk.CreateDrawing,
            drawing_pb2.CreateDrawingRequest.FromString,
            drawing_pb2.CreateDrawingResponse.SerializeToString,
        ),
        "DrawItems": grpc.unary_unary_rpc_method_handler(
            desk.DrawItems, drawing_pb2.DrawItemsRequest.FromString, drawing_pb2.DrawItemsResponse.SerializeToString
        ),
        "GetDecisions": grpc.unary_unary_rpc_method_handler(
            desk.GetDecisions,
            drawing_pb2.GetDecisionsRequest.FromString,
            drawing_pb2.GetDecisionsResponse.SerializeToString,
        ),
    }
    name = aggregation_pb2.DESCRIPTOR.services_by_name["AggregationService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield RemoteDrawings(channel, timeout_seconds=30.0)
    finally:
        await server.stop(None)


def request_for(*questions: Gate | Precision, uses_history: bool = True) -> DrawingRequest:
    return DrawingRequest(
        run="runs/r",
        seed=5,
        model="models/m",
        model_digest="digest",
        data_digest="rows",
        sample_count=2,
        uses_history=uses_history,
        earlier_runs=("runs/a",),
        previous_run="runs/b",
        questions=TaskQuestions("t", "m", questions, 0.025),
    )


async def test_ids_go_in_messages_of_ten_thousand_and_the_spec_in_the_first() -> None:
    desk = FakeDesk()
    async with drawings(desk) as remote:
        asked = request_for(Gate("t", Direction.AT_MOST, 0.25, "m"), Precision(0.02))
        await remote.create(asked, (f"q{index}" for index in range(25_000)))
    assert [len(each.item_ids) for each in desk.created] == [10_000, 10_000, 5000]
    assert [each.HasField("spec") for each in desk.created] == [True, False, False]
    spec = desk.created[0].spec
    assert (spec.run, spec.task, spec.metric, spec.seed, spec.samples) == ("runs/r", "t", "m", 5, 2)
    assert spec.questions[0].gate.direction == drawing_pb2.GATE_DIRECTION_AT_MOST
    assert [each.alpha for each in spec.questions] == [0.025, 0.025]
    assert spec.interval_alpha == 0.025
    assert (list(spec.history_runs), spec.previous_run) == (["runs/a"], "runs/b")


async def test_without_history_none_is_named() -> None:
    desk = FakeDesk()
    async with drawings(desk) as remote:
        await remote.create(request_for(uses_history=False), ["q"])
    assert desk.created[0].spec.history_mode == drawing_pb2.HISTORY_MODE_NONE
    assert desk.created[0].spec.previous_run == ""


async def test_draws_come_with_what_they_wait_for() -> None:
    async with drawings(FakeDesk()) as remote:
        block = await remote.draw("runs/r", "t", 0, 10)
        waiting = await remote.draw("runs/r", "t", 1, 10)
    assert (list(block.draws), block.is_exhausted, block.awaited_count) == ([Draw(7, "q7", 0)], True, None)
    assert (list(waiting.draws), waiting.is_exhausted, waiting.awaited_count) == ([], False, 32)


async def test_a_refusal_is_typed() -> None:
    async with drawings(FakeDesk()) as remote:
        with pytest.raises(NotFoundError, match="no such drawing"):
            await remote.decisions("runs/r")
