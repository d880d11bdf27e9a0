"""The safety service's gRPC face: validate, translate, judge, translate back."""

import grpc
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

from services.runtime.errors import FleetError, to_status
from services.runtime.pagination import paginate
from services.runtime.server import HostedService
from services.safety.catalogue import GuardCatalogue
from services.safety.errors import invalid_field
from services.safety.judgement import Verdict
from services.safety.judging import Assignment, inside_batch, judge_all
from services.safety.messages import guard_to_proto, turn_from_proto, verdict_to_proto

FULL_NAME = safety_pb2.DESCRIPTOR.services_by_name["SafetyService"].full_name
MAX_BATCH_REQUESTS = 256


class SafetyServicer(safety_pb2_grpc.SafetyServiceServicer):
    """Judges turns with the guards of a catalogue."""

    def __init__(self, catalogue: GuardCatalogue) -> None:
        self._catalogue = catalogue

    async def Classify(
        self,
        request: safety_pb2.ClassifyRequest,
        context: grpc.aio.ServicerContext[safety_pb2.ClassifyRequest, safety_pb2.ClassifyResponse],
    ) -> safety_pb2.ClassifyResponse:
        """Judge one turn."""
        assignment = self._assign(request)
        [verdict] = await assignment.guard.judge([assignment.turn])
        return safety_pb2.ClassifyResponse(verdict=verdict_to_proto(verdict))

    async def BatchClassify(
        self,
        request: safety_pb2.BatchClassifyRequest,
        context: grpc.aio.ServicerContext[safety_pb2.BatchClassifyRequest, safety_pb2.BatchClassifyResponse],
    ) -> safety_pb2.BatchClassifyResponse:
        """Judge many turns; a bad request among them leaves the others alone."""
        count = len(request.requests)
        if not 1 <= count <= MAX_BATCH_REQUESTS:
            raise invalid_field(
                "requests", f"must hold 1 to {MAX_BATCH_REQUESTS}, not {count}; split the batch", reason="BATCH_SIZE"
            )
        outcomes = await judge_all([self._try_assign(each, index) for index, each in enumerate(request.requests)])
        return safety_pb2.BatchClassifyResponse(results=[_result_to_proto(each) for each in outcomes])

    async def ListGuards(
        self,
        request: safety_pb2.ListGuardsRequest,
        context: grpc.aio.ServicerContext[safety_pb2.ListGuardsRequest, safety_pb2.ListGuardsResponse],
    ) -> safety_pb2.ListGuardsResponse:
        """List the guards, ordered by name."""
        page = paginate(
            [guard.about for guard in self._catalogue.guards],
            key=lambda about: about.name,
            page_size=request.page_size,
            page_token=request.page_token,
            scope="ListGuards",
        )
        return safety_pb2.ListGuardsResponse(
            guards=[guard_to_proto(about) for about in page.items], next_page_token=page.next_page_token
        )

    async def GetGuard(
        self,
        request: safety_pb2.GetGuardRequest,
        context: grpc.aio.ServicerContext[safety_pb2.GetGuardRequest, safety_pb2.GetGuardResponse],
    ) -> safety_pb2.GetGuardResponse:
        """Read one guard."""
        return safety_pb2.GetGuardResponse(guard=guard_to_proto(self._catalogue.find(request.name, field="name").about))

    def _assign(self, request: safety_pb2.ClassifyRequest) -> Assignment:
        assignment = Assignment(turn_from_proto(request), self._catalogue.choose(request.guard))
        assignment.check()
        return assignment

    def _try_assign(self, request: safety_pb2.ClassifyRequest, index: int) -> Assignment | FleetError:
        try:
            return self._assign(request)
        except FleetError as error:
            return inside_batch(error, index)


def hosted(catalogue: GuardCatalogue) -> HostedService:
    """Return what a server needs to serve these guards; it is ready when all of them are."""
    servicer = SafetyServicer(catalogue)
    return HostedService(
        FULL_NAME,
        lambda server: safety_pb2_grpc.add_SafetyServiceServicer_to_server(servicer, server),
        readiness=catalogue.are_ready,
    )


def _result_to_proto(outcome: Verdict | FleetError) -> safety_pb2.ClassifyResult:
    if isinstance(outcome, FleetError):
        return safety_pb2.ClassifyResult(status=to_status(outcome))
    return safety_pb2.ClassifyResult(verdict=verdict_to_proto(outcome))
