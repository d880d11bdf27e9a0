"""What the drawing of a task's items changes in estimates from those that were drawn."""

from collections.abc import Mapping

from evalfleet.aggregation.v1 import aggregation_pb2

from services.aggregation.drawings.messages import interval_to_proto
from services.aggregation.drawings.records import TaskDecision
from services.aggregation.estimation import ALL_ITEMS


def add_task_intervals(response: aggregation_pb2.GetEstimatesResponse, decisions: Mapping[str, TaskDecision]) -> None:
    """Put what a drawing says of the mean over all items beside the estimates from those that were drawn."""
    for estimate in response.estimates:
        decision = decisions.get(estimate.task)
        if decision is None or estimate.group != ALL_ITEMS or estimate.metric != decision.spec.metric:
            continue
        estimate.task_interval.CopyFrom(interval_to_proto(decision))
        if decision.value is not None:
            estimate.task_value = decision.value


def withhold_set_intervals(
    response: aggregation_pb2.GetEstimatesResponse, decisions: Mapping[str, TaskDecision]
) -> None:
    """Leave figures of a part of a drawing's items without intervals.

    Those are for a plain sample whose size nothing in it decides. A drawing stops where a rule finds what it has seen
    to be enough, its own or a ranking's, and it may have drawn with weights.
    """
    for measure in response.set_measures:
        decision = decisions.get(measure.task)
        if decision is not None and not decision.is_exact:
            measure.ClearField("interval")
