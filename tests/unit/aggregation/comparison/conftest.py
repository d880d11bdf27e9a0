"""The aggregation service on a ledger in a file."""

from collections.abc import AsyncIterator

import pytest
from evalfleet.aggregation.v1 import aggregation_pb2_grpc

from services.aggregation.ledger import SqlLedger
from services.aggregation.service import hosted
from services.runtime.testing import serve_in_process
from tests.unit.aggregation.comparison.served import Stub


@pytest.fixture
async def stub(ledger: SqlLedger) -> AsyncIterator[Stub]:
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)
