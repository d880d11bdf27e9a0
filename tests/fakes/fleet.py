"""A fleet in a test's own process: the servicers answer from memory, over real gRPC on a loopback port."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

import grpc
from evalfleet.aggregation.v1 import (
    aggregation_pb2_grpc,
)
from evalfleet.endpoints import SERVICES
from evalfleet.evaluation.v1 import evaluation_pb2_grpc, ranking_pb2_grpc
from evalfleet.generation.v1 import model_pb2_grpc
from evalfleet.safety.v1 import safety_pb2_grpc
from evalfleet.scoring.v1 import scoring_pb2_grpc
from evalfleet.server.v1 import server_pb2_grpc

from services.runtime.free_ports import free_port
from tests.fakes.aggregation_service import FakeAggregation
from tests.fakes.evaluation_service import FakeEvaluation
from tests.fakes.model_service import FakeModels
from tests.fakes.rankings import FakeRankings
from tests.fakes.safety_service import FakeSafety
from tests.fakes.scoring import FakeScoring
from tests.fakes.server_service import FakeServer


class FakeFleet(AbstractContextManager["FakeFleet"]):
    """All servicers on one port.

    Attributes:
        target: its address.
    """

    def __init__(self) -> None:
        self.models = FakeModels()
        self.evaluation = FakeEvaluation()
        self.rankings = FakeRankings()
        self.aggregation = FakeAggregation()
        self.safety = FakeSafety()
        self.scoring = FakeScoring()
        self.server = FakeServer()
        # Chosen once: a test may stop the fleet and start it again.
        self.target = f"127.0.0.1:{free_port('127.0.0.1')}"
        self._server: grpc.Server | None = None
        self.start()

    @property
    def targets(self) -> dict[str, str]:
        """The same address for every service."""
        return dict.fromkeys(SERVICES, self.target)

    def start(self) -> None:
        """Listen, on the same port as before."""
        server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.models, server)
        evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(self.evaluation, server)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(self.rankings, server)
        aggregation_pb2_grpc.add_AggregationServiceServicer_to_server(self.aggregation, server)
        safety_pb2_grpc.add_SafetyServiceServicer_to_server(self.safety, server)
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(self.scoring, server)
        server_pb2_grpc.add_ServerServiceServicer_to_server(self.server, server)
        server.add_insecure_port(self.target)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Cut all calls and free the port."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
