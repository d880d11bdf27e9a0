"""A fleet as its users on an event loop see it."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType

from evalfleet.aio.comparisons import AsyncComparisons
from evalfleet.aio.connections import AsyncConnection
from evalfleet.aio.drawings import AsyncDrawings
from evalfleet.aio.generation import AsyncGeneration
from evalfleet.aio.ledger import AsyncLedger
from evalfleet.aio.models import AsyncModels
from evalfleet.aio.programs import AsyncPrograms
from evalfleet.aio.rankings import AsyncRankings
from evalfleet.aio.runs import AsyncRuns
from evalfleet.aio.safety import AsyncSafety
from evalfleet.aio.scoring import AsyncScoring
from evalfleet.aio.suites import AsyncSuites
from evalfleet.client_settings import ClientSettings
from evalfleet.endpoints import Endpoints, find_endpoints
from evalfleet.hedging import Hedging
from evalfleet.retrying import DEFAULT_RETRIES, RetryPolicy
from evalfleet.security import Security
from evalfleet.server.v1 import server_pb2, server_pb2_grpc
from evalfleet.servers import ServerInfo, server_info_from_proto


class AsyncFleet(AbstractAsyncContextManager["AsyncFleet"]):
    """The services of one fleet, to be awaited; use it in an ``async with`` statement, which closes its connections.

    It has what ``evalfleet.fleet.Fleet`` has, under the same names. It may be made anywhere, also outside of an event
    loop: a service is looked up and connected to by the first call. A call is cancelled together with the task that
    waits for it, on the wire too.
    """

    def __init__(self, endpoints: Endpoints, settings: ClientSettings | None = None) -> None:
        self._endpoints = endpoints
        self._settings = settings or ClientSettings.with_environment()
        self._connections: dict[str, AsyncConnection] = {}

    @classmethod
    def connect(
        cls,
        targets: Mapping[str, str] | None = None,
        *,
        state_dir: Path | None = None,
        caller: str | None = None,
        security: Security | None = None,
        retries: RetryPolicy = DEFAULT_RETRIES,
        hedging: Hedging | None = None,
    ) -> "AsyncFleet":
        """Find the services; no call is made yet. The arguments are those of ``Fleet.connect``.

        Raises:
            EndpointError: ``targets`` names an unknown service.
        """
        settings = ClientSettings.with_environment(caller=caller, security=security, retries=retries, hedging=hedging)
        return cls(find_endpoints(targets, state_dir=state_dir), settings)

    @cached_property
    def models(self) -> AsyncModels:
        """The registered checkpoints."""
        return AsyncModels(self._connection("generation"))

    @cached_property
    def generation(self) -> AsyncGeneration:
        """Answers and log-likelihoods of the registered checkpoints."""
        return AsyncGeneration(self._connection("generation"))

    @cached_property
    def suites(self) -> AsyncSuites:
        """The suites that can be run."""
        return AsyncSuites(self._connection("evaluation"))

    @cached_property
    def runs(self) -> AsyncRuns:
        """The runs and their results."""
        return AsyncRuns(self._connection("evaluation"), lambda: self._connection("aggregation"))

    @cached_property
    def rankings(self) -> AsyncRankings:
        """Several models on the same items."""
        return AsyncRankings(self._connection("evaluation"))

    @cached_property
    def comparisons(self) -> AsyncComparisons:
        """Runs beside each other."""
        return AsyncComparisons(self._connection("aggregation"))

    @cached_property
    def drawings(self) -> AsyncDrawings:
        """In which order items are evaluated, and what a part of them decides."""
        return AsyncDrawings(self._connection("aggregation"))

    @cached_property
    def ledger(self) -> AsyncLedger:
        """The store of all runs' results."""
        return AsyncLedger(self._connection("aggregation"))

    @cached_property
    def safety(self) -> AsyncSafety:
        """The guard models."""
        return AsyncSafety(self._connection("safety"))

    @cached_property
    def scoring(self) -> AsyncScoring:
        """The scorers of outputs."""
        return AsyncScoring(self._connection("scoring"))

    @cached_property
    def programs(self) -> AsyncPrograms:
        """The code runner, where there is one."""
        return AsyncPrograms(self._connection("code_runner"))

    async def server_info(self, service: str) -> ServerInfo:
        """Read what a process of a service runs; see ``Fleet.server_info``."""
        connection = self._connection(service)
        method = connection.stub(server_pb2_grpc.ServerServiceStub).GetServerInfo
        answer = await connection.call(method, server_pb2.GetServerInfoRequest(), may_be_hedged=True)
        return server_info_from_proto(answer.server)

    async def close(self) -> None:
        """Close all connections; calls in flight are cancelled."""
        for connection in self._connections.values():
            await connection.close()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _connection(self, service: str) -> AsyncConnection:
        if service not in self._connections:
            target = self._endpoints.target(service)
            self._connections[service] = AsyncConnection(service, target, self._settings)
        return self._connections[service]
