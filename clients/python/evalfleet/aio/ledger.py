"""What is put into the ledger of results, and taken out of it, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import Iterable, Sequence

from evalfleet.aggregation.v1 import aggregation_pb2_grpc
from evalfleet.aio.connections import AsyncConnection
from evalfleet.item_results import ItemResult
from evalfleet.ledger import (
    APPEND_TIMEOUT_SECONDS,
    LONGEST_CALL_SECONDS,
    Appended,
    AppendedSum,
    Pruned,
    RunLease,
    append_requests,
    prune_request,
    pruned,
)


class AsyncLedger:
    """The aggregation service's store of results: ``evalfleet.ledger.Ledger``, to be awaited."""

    def __init__(self, aggregation: AsyncConnection) -> None:
        self._connection = aggregation

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceAsyncStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    async def append(
        self,
        results: Iterable[ItemResult],
        *,
        lease: RunLease | None = None,
        timeout_seconds: float = APPEND_TIMEOUT_SECONDS,
    ) -> Appended:
        """Keep results, each once; arguments and errors are those of ``Ledger.append``."""
        told = AppendedSum()
        for request in append_requests(results, lease):
            told.add(await self._connection.send(self._stub.AppendResults, [request], timeout_seconds=timeout_seconds))
        return told.appended()

    async def prune(
        self,
        runs: Sequence[str] = (),
        *,
        keep_runs_days: int | None = None,
        keep_text_days: int | None = None,
        runs_have_ended: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete results and remove long texts; arguments and errors are those of ``Ledger.prune``."""
        request = prune_request(
            runs,
            keep_runs_days=keep_runs_days,
            keep_text_days=keep_text_days,
            runs_have_ended=runs_have_ended,
            dry_run=dry_run,
        )
        return pruned(
            await self._connection.call(
                self._stub.PruneLedger, request, timeout_seconds=LONGEST_CALL_SECONDS, is_idempotent=False
            )
        )
