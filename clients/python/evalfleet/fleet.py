"""A fleet as its users see it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType

from evalfleet.answers import Generation
from evalfleet.client_settings import ClientSettings
from evalfleet.comparisons import Comparisons
from evalfleet.connections import Connection
from evalfleet.drawings import Drawings
from evalfleet.endpoints import Endpoints, find_endpoints
from evalfleet.hedging import Hedging
from evalfleet.ledger import Ledger
from evalfleet.models import Models
from evalfleet.programs import Programs
from evalfleet.rankings import Rankings
from evalfleet.retrying import DEFAULT_RETRIES, RetryPolicy
from evalfleet.runs import Runs
from evalfleet.scores import Scoring
from evalfleet.security import Security
from evalfleet.server.v1 import server_pb2, server_pb2_grpc
from evalfleet.servers import ServerInfo, server_info_from_proto
from evalfleet.suites import Suites
from evalfleet.verdicts import Safety


class Fleet(AbstractContextManager["Fleet"]):
    """The services of one fleet; use it in a ``with`` statement, which closes its connections.

    A service is looked up and connected to when it is first needed, so a client of the safety service alone needs no
    other. Every call raises ``evalfleet.errors.EvalFleetError`` or a subclass and ends in bounded time. Threads may
    share a fleet; a forked child connects anew, where gRPC can: see docs/client.md.
    """

    def __init__(self, endpoints: Endpoints, settings: ClientSettings | None = None) -> None:
        self._endpoints = endpoints
        self._settings = settings or ClientSettings.with_environment()
        self._connections: dict[str, Connection] = {}

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
    ) -> "Fleet":
        """Find the services (see ``evalfleet.endpoints``); no call is made yet.

        Args:
            targets: addresses by service name; the others come from the environment and ``state_dir``.
            state_dir: state folder of an ``evalfleet up`` on this machine.
            caller: who is asking, for the sums of cost: 1 to 64 letters, digits, ``.``, ``_``, ``@``, ``/``, ``-``;
                default: the environment's ``EVALFLEET_CALLER``, or nobody in particular.
            security: certificates and token; default: the environment's, see ``evalfleet.security``.
            retries: how often calls are repeated that may be.
            hedging: ask slow calls a second time; default: never.

        Raises:
            EndpointError: ``targets`` names an unknown service.
        """
        settings = ClientSettings.with_environment(caller=caller, security=security, retries=retries, hedging=hedging)
        return cls(find_endpoints(targets, state_dir=state_dir), settings)

    @cached_property
    def models(self) -> Models:
        """The registered checkpoints."""
        return Models(self._connection("generation"))

    @cached_property
    def generation(self) -> Generation:
        """Answers and log-likelihoods of the registered checkpoints."""
        return Generation(self._connection("generation"))

    @cached_property
    def suites(self) -> Suites:
        """The suites that can be run."""
        return Suites(self._connection("evaluation"))

    @cached_property
    def runs(self) -> Runs:
        """The runs and their results."""
        return Runs(self._connection("evaluation"), lambda: self._connection("aggregation"))

    @cached_property
    def rankings(self) -> Rankings:
        """Several models on the same items."""
        return Rankings(self._connection("evaluation"))

    @cached_property
    def comparisons(self) -> Comparisons:
        """Runs beside each other."""
        return Comparisons(self._connection("aggregation"))

    @cached_property
    def drawings(self) -> Drawings:
        """In which order items are evaluated, and what a part of them decides."""
        return Drawings(self._connection("aggregation"))

    @cached_property
    def ledger(self) -> Ledger:
        """The store of all runs' results."""
        return Ledger(self._connection("aggregation"))

    @cached_property
    def safety(self) -> Safety:
        """The guard models."""
        return Safety(self._connection("safety"))

    @cached_property
    def scoring(self) -> Scoring:
        """The scorers of outputs."""
        return Scoring(self._connection("scoring"))

    @cached_property
    def programs(self) -> Programs:
        """The code runner, where there is one."""
        return Programs(self._connection("code_runner"))

    def server_info(self, service: str) -> ServerInfo:
        """Read what a process of a service runs: version, contract, settings, models.

        Args:
            service: ``evaluation``, ``generation``, ``safety``, ``scoring`` or ``aggregation``.
        """
        connection = self._connection(service)
        method = connection.stub(server_pb2_grpc.ServerServiceStub).GetServerInfo
        return server_info_from_proto(
            connection.call(method, server_pb2.GetServerInfoRequest(), may_be_hedged=True).server
        )

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _connection(self, service: str) -> Connection:
        if service not in self._connections:
            target = self._endpoints.target(service)
            self._connections[service] = Connection(service, target, self._settings)
        return self._connections[service]
