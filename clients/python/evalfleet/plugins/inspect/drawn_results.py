"""A drawing of the aggregation service: which items come first, their results, and what these decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc, drawing_pb2
from evalfleet.connections import Connection
from evalfleet.goal_messages import decision
from evalfleet.goals import TaskDecision

_ITEMS_A_MESSAGE = 10_000
_RESULTS_A_MESSAGE = 1000
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about the mean over all items: a bound, or an interval of this half width. One of them is set."""

    at_least: float | None = None
    at_most: float | None = None
    precision: float | None = None

    def message(self, alpha: float) -> drawing_pb2.Question:
        """Translate; ``alpha`` is the largest probability of a wrong answer."""
        if self.precision is not None:
            return drawing_pb2.Question(precision=drawing_pb2.Precision(half_width=self.precision), alpha=alpha)
        if self.at_least is not None:
            gate = drawing_pb2.Gate(direction=drawing_pb2.GATE_DIRECTION_AT_LEAST, threshold=self.at_least)
        else:
            gate = drawing_pb2.Gate(direction=drawing_pb2.GATE_DIRECTION_AT_MOST, threshold=self.at_most or 0.0)
        return drawing_pb2.Question(gate=gate, alpha=alpha)


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one sample of an item: its value, or, where nobody knows it, why."""

    item: str
    sample: int
    draw_index: int
    value: float | None
    reason: str = ""
    explanation: str = ""


class DrawnResults:
    """The drawing of one task of one run.

    Args:
        connection: to the aggregation service.
        run: ``runs/NAME``.
        task: name of the task.
        metric: name of what is measured, whose values are from 0 to 1.
    """

    def __init__(self, connection: Connection, *, run: str, task: str, metric: str) -> None:
        self._connection = connection
        self.run = run
        self._task = task
        self._metric = metric

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    def create(
        self,
        items: Sequence[str],
        *,
        seed: int,
        model: str,
        data_digest: str,
        questions: Sequence[drawing_pb2.Question] = (),
        samples: int = 1,
    ) -> list[str]:
        """Fix the order, which depends on the seed, the data's digest and the metric alone, and return it.

        The same again returns the same.

        Raises:
            EvalFleetError: the service has another drawing of this run and task, or cannot be reached.
        """
        spec = drawing_pb2.DrawingSpec(
            run=self.run,
            task=self._task,
            metric=self._metric,
            seed=seed,
            model=model,
            data_digest=data_digest,
            questions=questions,
            samples=samples,
            history_mode=drawing_pb2.HISTORY_MODE_NONE,
        )

        def messages() -> Iterator[drawing_pb2.CreateDrawingRequest]:
            ids = iter(items)
            yield drawing_pb2.CreateDrawingRequest(spec=spec, item_ids=islice(ids, _ITEMS_A_MESSAGE))
            while some := list(islice(ids, _ITEMS_A_MESSAGE)):
                yield drawing_pb2.CreateDrawingRequest(item_ids=some)

        self._connection.send(self._stub.CreateDrawing, messages(), timeout_seconds=_TIMEOUT_SECONDS)
        drawn: list[str] = []
        while len(drawn) < len(items):
            request = drawing_pb2.DrawItemsRequest(
                run=self.run, task=self._task, first_draw_index=len(drawn), count=_ITEMS_A_MESSAGE
            )
            answer = self._connection.call(self._stub.DrawItems, request, timeout_seconds=_TIMEOUT_SECONDS)
            drawn += [each.item_id for each in answer.draws]
        return drawn

    def append(self, outcomes: Sequence[ItemOutcome]) -> TaskDecision | None:
        """Store results, which are not stored twice, and return what is decided now."""
        results = [self._result(each) for each in outcomes]
        requests = (
            aggregation_pb2.AppendResultsRequest(results=results[begin : begin + _RESULTS_A_MESSAGE])
            for begin in range(0, len(results), _RESULTS_A_MESSAGE)
        )
        answer = self._connection.send(self._stub.AppendResults, requests, timeout_seconds=_TIMEOUT_SECONDS)
        return next((decision(each) for each in answer.decisions if each.task == self._task), None)

    def decided(self) -> TaskDecision:
        """Return what all results decide."""
        request = drawing_pb2.GetDecisionsRequest(run=self.run, task=self._task)
        answer = self._connection.call(self._stub.GetDecisions, request, timeout_seconds=_TIMEOUT_SECONDS)
        return decision(answer.decisions[0])

    def _result(self, outcome: ItemOutcome) -> aggregation_pb2.Result:
        result = aggregation_pb2.Result(
            run=self.run,
            task=self._task,
            item=outcome.item,
            sample=outcome.sample,
            draw_index=outcome.draw_index,
        )
        if outcome.value is None:
            # Counted as nothing: what is decided then holds whatever it would have been.
            result.failure.CopyFrom(aggregation_pb2.Failure(reason=outcome.reason, message=outcome.explanation))
        else:
            result.scored.CopyFrom(aggregation_pb2.Scored(metrics={self._metric: outcome.value}))
        result.complete_time.GetCurrentTime()
        return result
