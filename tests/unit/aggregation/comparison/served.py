"""A ledger of runs to compare, filled and asked over gRPC."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2 as pb
from evalfleet.aggregation.v1 import aggregation_pb2_grpc

from services.runtime.errors import FleetError, from_rpc_error

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"


async def append(stub: Stub, run: str, values: Sequence[float | None], **fields: Any) -> None:
    """Append one result an item, in draw order; None is a failure that counts as nothing."""
    prompt: Callable[[int], str] = fields.pop("prompt", lambda number: f"Question {number}?")
    metric = fields.pop("metric", "acc")

    def outcome(value: float | None) -> dict[str, Any]:
        if value is None:
            return {"failure": pb.Failure(reason="TIMEOUT")}
        return {"scored": pb.Scored(metrics={metric: value})}

    def given(number: int) -> dict[str, Any]:
        return {"task": "t", "item": f"i{number:05}", "draw_index": number, "prompt": prompt(number)} | fields

    results = [pb.Result(run=run, **given(number), **outcome(value)) for number, value in enumerate(values)]

    async def requests() -> AsyncIterator[pb.AppendResultsRequest]:
        for start in range(0, len(results), 1000):
            yield pb.AppendResultsRequest(results=results[start : start + 1000])

    await stub.AppendResults(requests())


async def refusal(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
