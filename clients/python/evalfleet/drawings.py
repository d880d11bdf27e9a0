"""In which order the items of a task are evaluated, and what a part of them decides about all of them."""

from collections.abc import Sequence

from evalfleet import drawing_messages as messages
from evalfleet import goal_messages
from evalfleet.aggregation.v1 import aggregation_pb2_grpc
from evalfleet.connections import Connection
from evalfleet.drawing_messages import DRAWING_TIMEOUT_SECONDS, LARGEST_DRAW
from evalfleet.drawing_results import Draw, Drawing, DrawingSpec, DrawnItems, Question
from evalfleet.goals import TaskDecision

__all__ = ["Draw", "Drawing", "DrawingSpec", "Drawings", "DrawnItems", "Question"]


class Drawings:
    """Drawings of the aggregation service, for whoever evaluates items without the evaluation service.

    Results come in with ``fleet.ledger.append``, each with the ``draw_index`` of its item. Runs may be given as
    ``runs/r1`` or ``r1``.
    """

    def __init__(self, aggregation: Connection) -> None:
        self._connection = aggregation

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    def create(self, spec: DrawingSpec, items: Sequence[str]) -> Drawing:
        """Fix the order and the questions before the first result; the same again returns the drawing that is there.

        Args:
            spec: what it is about.
            items: ids of the task's items in their canonical order, up to 2,000,000, no id twice.

        Raises:
            AlreadyExistsError: the run has another drawing of this task.
        """
        requests = messages.create_requests(spec, items)
        answer = self._connection.send(self._stub.CreateDrawing, requests, timeout_seconds=DRAWING_TIMEOUT_SECONDS)
        return messages.drawing(answer.drawing)

    def draw(self, run: str, task: str, *, first_draw_index: int = 0, count: int = LARGEST_DRAW) -> DrawnItems:
        """Return the next items to evaluate; the same first index gives the same draws, from every replica.

        Args:
            run: of the drawing.
            task: of the drawing.
            first_draw_index: place of the first wanted item in the order of draws.
            count: most items, 1 to 10,000.
        """
        request = messages.draw_request(run, task, first_draw_index, count)
        answer = self._connection.call(self._stub.DrawItems, request, timeout_seconds=DRAWING_TIMEOUT_SECONDS)
        return messages.drawn_items(answer)

    def decisions(self, run: str, task: str = "") -> tuple[TaskDecision, ...]:
        """Return what the results so far decide in each drawing of a run, ordered by task, or in that of ``task``."""
        request = messages.decisions_request(run, task)
        answer = self._connection.call(
            self._stub.GetDecisions, request, timeout_seconds=DRAWING_TIMEOUT_SECONDS, may_be_hedged=True
        )
        return tuple(goal_messages.decision(each) for each in answer.decisions)
