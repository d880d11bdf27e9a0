"""In which order the items of a task are evaluated, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import Sequence

from evalfleet import drawing_messages as messages
from evalfleet import goal_messages
from evalfleet.aggregation.v1 import aggregation_pb2_grpc
from evalfleet.aio.connections import AsyncConnection
from evalfleet.drawing_messages import DRAWING_TIMEOUT_SECONDS, LARGEST_DRAW
from evalfleet.drawing_results import Drawing, DrawingSpec, DrawnItems
from evalfleet.goals import TaskDecision


class AsyncDrawings:
    """Drawings of the aggregation service: ``evalfleet.drawings.Drawings``, to be awaited."""

    def __init__(self, aggregation: AsyncConnection) -> None:
        self._connection = aggregation

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceAsyncStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    async def create(self, spec: DrawingSpec, items: Sequence[str]) -> Drawing:
        """Fix the order and the questions; arguments and errors are those of ``Drawings.create``."""
        requests = messages.create_requests(spec, items)
        answer = await self._connection.send(
            self._stub.CreateDrawing, requests, timeout_seconds=DRAWING_TIMEOUT_SECONDS
        )
        return messages.drawing(answer.drawing)

    async def draw(self, run: str, task: str, *, first_draw_index: int = 0, count: int = LARGEST_DRAW) -> DrawnItems:
        """Return the next items to evaluate; the arguments are those of ``Drawings.draw``."""
        request = messages.draw_request(run, task, first_draw_index, count)
        answer = await self._connection.call(self._stub.DrawItems, request, timeout_seconds=DRAWING_TIMEOUT_SECONDS)
        return messages.drawn_items(answer)

    async def decisions(self, run: str, task: str = "") -> tuple[TaskDecision, ...]:
        """Return what the results so far decide in each drawing of a run, ordered by task, or in that of ``task``."""
        request = messages.decisions_request(run, task)
        answer = await self._connection.call(
            self._stub.GetDecisions, request, timeout_seconds=DRAWING_TIMEOUT_SECONDS, may_be_hedged=True
        )
        return tuple(goal_messages.decision(each) for each in answer.decisions)
