"""What a drawing changes in a run's figures of sets."""

import pytest
from evalfleet.aggregation.v1 import aggregation_pb2

from services.aggregation.drawings.records import DrawingSpec, TaskDecision
from services.aggregation.drawn_estimates import withhold_set_intervals

SPEC = DrawingSpec("runs/r", "t", "correct", 0, "models/m", "d", "d")


@pytest.mark.parametrize(
    ("completed", "is_weighted", "has_interval"), [(10, True, False), (10, False, False), (20, True, True)]
)
def test_a_part_whose_size_a_rule_may_have_decided_has_no_intervals_of_sets(
    completed: int, *, is_weighted: bool, has_interval: bool
) -> None:
    interval = aggregation_pb2.Interval(lower=0.1, upper=0.2)
    response = aggregation_pb2.GetEstimatesResponse(
        set_measures=[aggregation_pb2.SetMeasure(task=task, value=0.1, interval=interval) for task in ("t", "full")]
    )
    decision = TaskDecision(
        SPEC, (), False, 0.0, 1.0, None, completed, completed, 20, completed, 0, "", is_weighted=is_weighted
    )
    withhold_set_intervals(response, {"t": decision})
    drawn, full = response.set_measures
    assert drawn.HasField("interval") == has_interval
    assert full.HasField("interval")
