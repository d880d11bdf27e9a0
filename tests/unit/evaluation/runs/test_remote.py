"""The peers over a loopback port; the services behind it are fakes that remember what they were sent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.generation.v1 import model_pb2

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.remote import RemoteGenerator, RemoteLedger
from services.runtime.errors import FailedPreconditionError, UnavailableError
from services.runtime.server import HostedService
from services.runtime.testing import serve_in_process
from tests.patience import LONGEST_WAIT_SECONDS


class FakeAggregation:
    """Acknowledges everything."""

    def __init__(self) -> None:
        self.messages: list[aggregation_pb2.AppendResultsRequest] = []

    async def append(self, request_iterator: Any, context: Any) -> aggregation_pb2.AppendResultsResponse:
        async for message in request_iterator:
            self.messages.append(message)
        return aggregation_pb2.AppendResultsResponse(appended_count=sum(len(each.results) for each in self.messages))


@asynccontextmanager
async def serving(name: str, method: str, handler: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a service of one method."""
    handlers = grpc.method_handlers_generic_handler(name, {method: handler})
    async with serve_in_process(
        HostedService(name, lambda server: server.add_generic_rpc_handlers((handlers,)))
    ) as channel:
        yield channel


@asynccontextmanager
async def ledger(fake: FakeAggregation) -> AsyncIterator[RemoteLedger]:
    name = aggregation_pb2.DESCRIPTOR.services_by_name["AggregationService"].full_name
    handler: Any = grpc.stream_unary_rpc_method_handler(
        fake.append,
        aggregation_pb2.AppendResultsRequest.FromString,
        aggregation_pb2.AppendResultsResponse.SerializeToString,
    )
    async with serving(name, "AppendResults", handler) as channel:
        yield RemoteLedger(channel, timeout_seconds=LONGEST_WAIT_SECONDS)


@asynccontextmanager
async def generator(model: model_pb2.Model) -> AsyncIterator[RemoteGenerator]:
    """Yield a generator whose service knows one model."""

    async def get_model(request: Any, context: Any) -> model_pb2.GetModelResponse:
        return model_pb2.GetModelResponse(model=model)

    handler: Any = grpc.unary_unary_rpc_method_handler(
        get_model, model_pb2.GetModelRequest.FromString, model_pb2.GetModelResponse.SerializeToString
    )
    name = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
    async with serving(name, "GetModel", handler) as channel:
        yield RemoteGenerator(channel, timeout_seconds=LONGEST_WAIT_SECONDS)


@pytest.mark.parametrize(("length", "messages"), [(10, [40]), (1 << 19, [7, 7, 7, 7, 7, 5]), (5 << 20, [1] * 4)])
async def test_long_outcomes_go_in_several_messages(length: int, messages: list[int]) -> None:
    fake = FakeAggregation()
    outcomes = [
        ItemOutcome("task", f"item {index}", 0, index, {}, None, output="x" * length) for index in range(sum(messages))
    ]
    async with ledger(fake) as remote:
        assert (await remote.append("runs/r", outcomes)).appended == len(outcomes)
    assert [len(each.results) for each in fake.messages] == messages
    assert [each.item for message in fake.messages for each in message.results] == [each.item for each in outcomes]


async def test_the_holder_of_a_lease_says_its_epoch_with_every_message_and_without_results() -> None:
    fake = FakeAggregation()
    outcomes = [ItemOutcome("task", f"item {index}", 0, index, {}, None, output="x" * (1 << 21)) for index in range(4)]
    async with ledger(fake) as remote:
        await remote.fenced(7).append("runs/r", ())
        await remote.fenced(8).append("runs/r", outcomes)
        fake.messages, with_lease = [], fake.messages
        await remote.append("runs/r", outcomes)
    assert [(each.lease.run, each.lease.epoch) for each in with_lease] == [("runs/r", 7)] + [("runs/r", 8)] * 4
    assert not any(each.HasField("lease") for each in fake.messages)


async def test_a_ledger_that_has_seen_a_later_lease_is_a_lease_lost() -> None:
    class Refusing(FakeAggregation):
        async def append(self, request_iterator: Any, context: Any) -> aggregation_pb2.AppendResultsResponse:
            raise FailedPreconditionError("taken over", reason="RUN_LEASE_LOST", metadata={"newest_epoch": "9"})

    async with ledger(Refusing()) as remote:
        with pytest.raises(LeaseLostError, match="taken over") as caught:
            await remote.fenced(8).append("runs/r", ())
    assert caught.value.metadata["newest_epoch"] == "9"


async def test_a_model_whose_content_is_not_known_yet_is_asked_for_again() -> None:
    async with generator(model_pb2.Model(state=model_pb2.MODEL_STATE_LOADING)) as remote:
        with pytest.raises(UnavailableError) as caught:
            await remote.model_digest("models/m")
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("MODEL_LOADING", 2.0)
    async with generator(model_pb2.Model(state=model_pb2.MODEL_STATE_LOADING, digest="d")) as remote:
        assert await remote.model_digest("models/m") == "d"


async def test_a_model_that_failed_cannot_be_evaluated() -> None:
    async with generator(model_pb2.Model(state=model_pb2.MODEL_STATE_FAILED, failure="no room")) as remote:
        with pytest.raises(FailedPreconditionError, match="no room"):
            await remote.model_digest("models/m")
