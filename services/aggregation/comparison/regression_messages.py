"""Translate between regressions.proto and the domain."""

from collections.abc import Sequence
from typing import Final

from evalfleet.aggregation.v1 import regressions_pb2

from services.aggregation.comparison.request_checks import check_names, check_share, checked_run
from services.aggregation.comparison.watching import Alarm, Point, Regressions, WatchedMetric
from services.aggregation.errors import InvalidLedgerRequestError

MOST_CHECKPOINTS: Final = 2000
_DEFAULT_TOLERANCE: Final = 0.01
_DEFAULT_FALSE_ALARM_RATE: Final = 0.05


def watched_metrics(request: regressions_pb2.CheckRegressionsRequest) -> tuple[WatchedMetric, ...]:
    """Check and translate the metrics to watch.

    Raises:
        InvalidLedgerRequestError: says what is wrong.
    """
    check_names("metrics", [(each.task, each.metric) for each in request.metrics])
    return tuple(WatchedMetric(each.task, each.metric, each.lower_is_better) for each in request.metrics)


def watched_runs(request: regressions_pb2.CheckRegressionsRequest) -> tuple[str, ...]:
    """Check and return the runs to watch.

    Raises:
        InvalidLedgerRequestError: says what is wrong.
    """
    runs = tuple(checked_run(f"runs[{index}]", run) for index, run in enumerate(request.runs))
    if not 2 <= len(runs) <= MOST_CHECKPOINTS:
        raise InvalidLedgerRequestError("runs", f"has {len(runs)} entries; name 2 to {MOST_CHECKPOINTS}")
    if len(set(runs)) < len(runs):
        raise InvalidLedgerRequestError("runs", "names a run twice")
    return runs


def tolerance_of(request: regressions_pb2.CheckRegressionsRequest) -> float:
    """Check and return which drops are none.

    Raises:
        InvalidLedgerRequestError: it is out of range.
    """
    tolerance = request.tolerance if request.HasField("tolerance") else _DEFAULT_TOLERANCE
    check_share("tolerance", tolerance)
    return tolerance


def false_alarm_rate_of(request: regressions_pb2.CheckRegressionsRequest) -> float:
    """Check and return the largest probability of a false alarm.

    Raises:
        InvalidLedgerRequestError: it is out of range.
    """
    rate = request.false_alarm_rate if request.HasField("false_alarm_rate") else _DEFAULT_FALSE_ALARM_RATE
    if not 0 < rate < 0.5:
        raise InvalidLedgerRequestError("false_alarm_rate", f"is {rate}; it lies above 0 and below 0.5")
    return rate


def regressions_to_proto(found: Regressions, runs: Sequence[str]) -> regressions_pb2.CheckRegressionsResponse:
    """Translate what was found."""
    return regressions_pb2.CheckRegressionsResponse(
        alarms=[_alarm_to_proto(each, runs) for each in found.alarms],
        series=[
            regressions_pb2.WatchedSeries(
                task=watched.task,
                metric=watched.metric,
                lower_is_better=watched.lower_is_better,
                points=[_point_to_proto(each) for each in points],
            )
            for watched, points in found.series.items()
        ],
    )


def _alarm_to_proto(alarm: Alarm, runs: Sequence[str]) -> regressions_pb2.RegressionAlarm:
    return regressions_pb2.RegressionAlarm(
        task=alarm.watched.task,
        metric=alarm.watched.metric,
        run=runs[alarm.run_index],
        run_index=alarm.run_index,
        change_index=alarm.change_index,
        difference=alarm.suspicion.difference,
        before_count=alarm.suspicion.before_count,
        after_count=alarm.suspicion.after_count,
        item_count=alarm.suspicion.item_count,
        log_evidence=alarm.suspicion.log_evidence,
        log_threshold=alarm.log_threshold,
        lost_items=alarm.lost_items,
        lost_count=alarm.lost_count,
        gained_count=alarm.gained_count,
    )


def _point_to_proto(point: Point) -> regressions_pb2.CheckpointPoint:
    return regressions_pb2.CheckpointPoint(
        run_index=point.run_index,
        value=point.value,
        item_count=point.item_count,
        lost_count=point.lost_count,
        gained_count=point.gained_count,
        log_evidence=point.log_evidence,
        log_threshold=point.log_threshold,
        skipped_reason=point.skipped_reason,
    )
