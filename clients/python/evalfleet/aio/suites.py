"""The suites that a fleet can run, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from evalfleet import decoding
from evalfleet.aio.connections import AsyncConnection
from evalfleet.connections import LARGEST_PAGE
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.names import full_name
from evalfleet.results import Suite


class AsyncSuites:
    """The evaluation service's suites: ``evalfleet.suites.Suites``, to be awaited."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> evaluation_pb2_grpc.EvaluationServiceAsyncStub:
        return self._connection.stub(evaluation_pb2_grpc.EvaluationServiceStub)

    async def list(self) -> tuple[Suite, ...]:
        """List the suites, ordered by name."""
        pages = self._connection.pages(
            self._stub.ListSuites,
            lambda token: evaluation_pb2.ListSuitesRequest(page_size=LARGEST_PAGE, page_token=token),
        )
        return tuple([decoding.suite(each) async for page in pages for each in page.suites])

    async def get(self, name: str) -> Suite:
        """Read one suite."""
        request = evaluation_pb2.GetSuiteRequest(name=full_name("suites", name))
        return decoding.suite((await self._connection.call(self._stub.GetSuite, request, may_be_hedged=True)).suite)
