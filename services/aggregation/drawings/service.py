"""The gRPC face of drawings: validate, translate, ask the desk, translate back."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from evalfleet.aggregation.v1 import drawing_pb2

from services.aggregation.drawings.checks import DrawingDraft, checked_draw, checked_place
from services.aggregation.drawings.desk import DrawingDesk
from services.aggregation.drawings.messages import decision_to_proto, drawing_to_proto, drawn_to_proto
from services.aggregation.drawings.records import TaskDecision
from services.aggregation.records import Result


class DrawingCalls:
    """Answers the calls of ``AggregationService`` that are about drawings.

    Args:
        desk: hands them out.
    """

    def __init__(self, desk: DrawingDesk) -> None:
        self._desk = desk

    async def create(
        self, requests: AsyncIterator[drawing_pb2.CreateDrawingRequest]
    ) -> drawing_pb2.CreateDrawingResponse:
        """Create a drawing from its messages."""
        draft = DrawingDraft()
        async for request in requests:
            await asyncio.to_thread(draft.add, request)
        drawing = await self._desk.create(*draft.finished())
        return drawing_pb2.CreateDrawingResponse(drawing=drawing_to_proto(drawing))

    async def draw(self, request: drawing_pb2.DrawItemsRequest) -> drawing_pb2.DrawItemsResponse:
        """Return the next items."""
        checked_draw(request)
        drawn = await self._desk.draw(request.run, request.task, request.first_draw_index, request.count)
        return await asyncio.to_thread(drawn_to_proto, drawn)

    async def decisions(self, request: drawing_pb2.GetDecisionsRequest) -> drawing_pb2.GetDecisionsResponse:
        """Return what a run's results decide."""
        checked_place(request.run, request.task or "any")
        found = await self._desk.decisions(request.run, request.task or None)
        return drawing_pb2.GetDecisionsResponse(decisions=[decision_to_proto(each) for each in found])

    async def decisions_of(self, touched: Collection[tuple[str, str]]) -> list[drawing_pb2.TaskDecision]:
        """Return what is decided in those of these runs and tasks that have a drawing."""
        return [decision_to_proto(each) for each in await self._desk.decisions_of(touched)]

    async def wrong_draws(self, results: Sequence[Result]) -> list[int]:
        """Return which of these results name a draw that is not their item's, in tasks that have a drawing."""
        return await self._desk.wrong_draws(results)

    async def of_run(self, run: str) -> dict[str, TaskDecision]:
        """Return what a run's results decide, by task."""
        return {each.spec.task: each for each in await self._desk.decisions(run)}
