"""What came of a run: every result, and whether two runs on the same draws found the same."""

from dataclasses import dataclass

import grpc
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc

_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A disturbed run beside one that was left alone.

    Attributes:
        missing_count: draws without an outcome.
        repeated_count: outcomes beyond the first of a draw.
        failed_count: outcomes that are failures.
        differing_count: draws whose item, answer or scores are not those of the other run.
        largest_estimate_difference: over all estimates and the ends of their intervals.
    """

    missing_count: int
    repeated_count: int
    failed_count: int
    differing_count: int
    largest_estimate_difference: float


def compare(target: str, disturbed: str, calm: str, item_count: int) -> Comparison:
    """Compare two runs of the ledger at ``target``, by name, of ``item_count`` items each."""
    with grpc.insecure_channel(target) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        rows = _rows(stub, disturbed)
        by_draw = {row.draw_index: row for row in rows}
        others = {row.draw_index: row for row in _rows(stub, calm)}
        estimates, expected = _estimates(stub, disturbed), _estimates(stub, calm)
    assert len(others) == item_count, f"{calm} has {len(others)} of {item_count} draws"
    assert estimates.keys() == expected.keys()
    return Comparison(
        missing_count=len(set(range(item_count)) - by_draw.keys()),
        repeated_count=len(rows) - len(by_draw),
        failed_count=sum(row.HasField("failure") for row in rows),
        differing_count=sum(_content(row) != _content(others[index]) for index, row in by_draw.items()),
        largest_estimate_difference=max(abs(estimates[key] - expected[key]) for key in estimates),
    )


def rows_of(target: str, run: str) -> list[aggregation_pb2.Result]:
    """Every result of a run in the ledger at ``target``."""
    with grpc.insecure_channel(target) as channel:
        return _rows(aggregation_pb2_grpc.AggregationServiceStub(channel), run)


def _content(row: aggregation_pb2.Result) -> tuple[str, str, str]:
    return row.item, row.output, str(row.scored)


def _rows(stub: aggregation_pb2_grpc.AggregationServiceStub, run: str) -> list[aggregation_pb2.Result]:
    request = aggregation_pb2.ListResultsRequest(run=run, page_size=5000)
    found: list[aggregation_pb2.Result] = []
    while True:
        page = stub.ListResults(request, timeout=_SECONDS, wait_for_ready=True)
        found += page.results
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def _estimates(stub: aggregation_pb2_grpc.AggregationServiceStub, run: str) -> dict[tuple[str, ...], float]:
    request = aggregation_pb2.GetEstimatesRequest(run=run)
    values: dict[tuple[str, ...], float] = {}
    for each in stub.GetEstimates(request, timeout=_SECONDS, wait_for_ready=True).estimates:
        key = (each.task, each.metric, each.group)
        values |= {(*key, "value"): each.value, (*key, "lower"): each.interval.lower}
        values |= {(*key, "upper"): each.interval.upper}
    return values
