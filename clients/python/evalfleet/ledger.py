"""What is taken out of the ledger of results."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.connections import Connection
from evalfleet.names import full_name

LONGEST_CALL_SECONDS = 3600.0
"""A large ledger is looked through from end to end."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was, or would be, taken out: runs with their results, and long texts with the bytes that they took up."""

    runs: tuple[str, ...]
    result_count: int
    text_count: int
    text_bytes: int


class Ledger:
    """The aggregation service's store of results; runs may be given as ``runs/r1`` or ``r1``."""

    def __init__(self, aggregation: Connection) -> None:
        self._connection = aggregation

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    def prune(
        self,
        runs: Sequence[str] = (),
        *,
        keep_runs_days: int | None = None,
        keep_text_days: int | None = None,
        runs_have_ended: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete results and remove long texts; with nothing given, only texts that no result refers to.

        Args:
            runs: whose results are deleted; they take no further ones.
            keep_runs_days: also those of runs that got none for so many days.
            keep_text_days: remove the long texts of runs that got no results for so many days; scores stay.
            runs_have_ended: delete ``runs`` also if they got results within the last two hours.
            dry_run: only tell what would be taken out.

        Raises:
            FailedPreconditionError: with the reason ``RUN_MAY_BE_IN_PROGRESS``, ``RUN_RESULTS_DELETED``,
                ``PRUNE_IN_PROGRESS`` or ``TEXTS_MOVING``.
        """
        request = prune_request(
            runs,
            keep_runs_days=keep_runs_days,
            keep_text_days=keep_text_days,
            runs_have_ended=runs_have_ended,
            dry_run=dry_run,
        )
        return pruned(
            self._connection.call(
                self._stub.PruneLedger, request, timeout_seconds=LONGEST_CALL_SECONDS, is_idempotent=False
            )
        )


def prune_request(
    runs: Sequence[str],
    *,
    keep_runs_days: int | None,
    keep_text_days: int | None,
    runs_have_ended: bool,
    dry_run: bool,
) -> aggregation_pb2.PruneLedgerRequest:
    """Ask for results to be taken out."""
    return aggregation_pb2.PruneLedgerRequest(
        runs=[full_name("runs", each) for each in runs],
        keep_runs_days=keep_runs_days,
        keep_text_days=keep_text_days,
        runs_have_ended=runs_have_ended,
        dry_run=dry_run,
    )


def pruned(message: aggregation_pb2.PruneLedgerResponse) -> Pruned:
    """Translate what was taken out."""
    return Pruned(tuple(message.runs), message.result_count, message.text_count, message.text_bytes)
