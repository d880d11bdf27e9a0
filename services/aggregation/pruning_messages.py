"""Translate between the contract's messages about pruning and the domain."""

from evalfleet.aggregation.v1 import aggregation_pb2

from services.aggregation.errors import InvalidLedgerRequestError
from services.aggregation.retention import MOST_RUNS, Pruned, PrunePolicy

_MOST_DAYS = 100_000


def policy_from_proto(request: aggregation_pb2.PruneLedgerRequest) -> PrunePolicy:
    """Check and translate a request.

    Raises:
        InvalidLedgerRequestError: too many runs, one twice or malformed, or a number of days that cannot be.
    """
    runs = tuple(request.runs)
    if len(runs) > MOST_RUNS:
        raise InvalidLedgerRequestError("runs", f"has {len(runs)} entries; up to {MOST_RUNS} are deleted at a time")
    for index, run in enumerate(runs):
        if not run.startswith("runs/") or run == "runs/" or "\0" in run:
            raise InvalidLedgerRequestError(f"runs[{index}]", f"is {run!r}; write runs/{{run}}")
        if run in runs[:index]:
            raise InvalidLedgerRequestError(f"runs[{index}]", f"is {run!r} again; name every run once")
    return PrunePolicy(
        runs,
        _days("keep_runs_days", request.keep_runs_days) if request.HasField("keep_runs_days") else None,
        _days("keep_text_days", request.keep_text_days) if request.HasField("keep_text_days") else None,
        runs_have_ended=request.runs_have_ended,
    )


def pruned_to_proto(pruned: Pruned) -> aggregation_pb2.PruneLedgerResponse:
    """Translate what was taken out."""
    return aggregation_pb2.PruneLedgerResponse(
        runs=pruned.runs,
        result_count=pruned.result_count,
        text_count=pruned.text_count,
        text_bytes=pruned.text_bytes,
    )


def _days(field: str, days: int) -> int:
    if not 1 <= days <= _MOST_DAYS:
        raise InvalidLedgerRequestError(field, f"is {days}; it is at least 1, and absent where nothing grows old")
    return days
