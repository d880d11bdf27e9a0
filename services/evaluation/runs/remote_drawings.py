"""The drawings of the aggregation service over gRPC."""

import itertools
from collections.abc import AsyncIterator, Iterable, Sequence

import grpc.aio
from evalfleet.aggregation.v1 import aggregation_pb2_grpc, drawing_pb2

from services.evaluation.runs import drawing_messages
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import DrawingRequest, DrawnBlock
from services.runtime.errors import from_rpc_error

_IDS_A_MESSAGE = 10_000


class RemoteDrawings:
    """``Drawings`` behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def create(self, request: DrawingRequest, item_ids: Iterable[str]) -> None:
        """Fix the order of a task's items.

        Raises:
            AlreadyExistsError: DRAWING_DIFFERS: the run was begun with other questions or items.
        """
        spec = drawing_messages.spec_to_proto(request)
        ids = iter(item_ids)

        async def messages() -> AsyncIterator[drawing_pb2.CreateDrawingRequest]:
            yield drawing_pb2.CreateDrawingRequest(spec=spec, item_ids=itertools.islice(ids, _IDS_A_MESSAGE))
            while some := list(itertools.islice(ids, _IDS_A_MESSAGE)):
                yield drawing_pb2.CreateDrawingRequest(item_ids=some)

        try:
            await self._stub.CreateDrawing(messages(), timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def draw(self, run: str, task: str, first_draw_index: int, count: int) -> DrawnBlock:
        """Up to ``count`` draws from an index on."""
        request = drawing_pb2.DrawItemsRequest(run=run, task=task, first_draw_index=first_draw_index, count=count)
        try:
            response = await self._stub.DrawItems(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return drawing_messages.block_from_proto(response)

    async def decisions(self, run: str) -> Sequence[TaskDecision]:
        """What is decided about each drawn task."""
        try:
            response = await self._stub.GetDecisions(
                drawing_pb2.GetDecisionsRequest(run=run), timeout=self._timeout_seconds
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return tuple(drawing_messages.decision_from_proto(each) for each in response.decisions)
