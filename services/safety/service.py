"""The safety service's gRPC face: validate, translate, judge, translate back."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

from services.runtime.batch_reading import SalvagedBatch, batch_reader
from services.runtime.errors import FleetError
from services.runtime.item_reading import ITEM_GROUPS_METADATA
from services.runtime.item_streams import StreamLimits
from services.runtime.malformed import MalformedRequestError
from services.runtime.pagination import paginate
from services.runtime.security.audit import AuditLog
from services.runtime.server import HostedService
from services.runtime.server_info import Artifact
from services.runtime.telemetry.spans import item_spans
from services.runtime.work import WorkMeter
from services.safety.assigning import Assigner
from services.safety.catalogue import GuardCatalogue
from services.safety.conversation import choose_turn
from services.safety.errors import invalid_field
from services.safety.judgement import Aspect, Role, Turn
from services.safety.judging import Assignment, inside_batch, judge_all, judge_one
from services.safety.messages import (
    guard_to_proto,
    result_to_proto,
    turn_from_proto,
    turns_from_proto,
    verdict_to_proto,
)
from services.safety.policies import PolicyCatalogue
from services.safety.policies.catalogue import problem_of
from services.safety.policy_messages import inline_policy, policy_to_proto
from services.safety.rolling import RollingLimits
from services.safety.stream_messages import told_to_proto
from services.safety.streaming import TurnReader, stream_verdicts

FULL_NAME = safety_pb2.DESCRIPTOR.services_by_name["SafetyService"].full_name
MAX_BATCH_REQUESTS = 256
DECODERS = {
    "BatchClassify": batch_reader(
        f"{FULL_NAME}/BatchClassify", safety_pb2.BatchClassifyRequest, safety_pb2.ClassifyRequest
    )
}
"""Methods whose requests are read in parts: see ``batch_reading``."""
UNBOUNDED_METHODS = frozenset({"StreamClassify"})
"""Streams that may last as long as their caller likes; each of their items has a limit of its own."""
DEFAULT_STREAM_LIMITS: Final = StreamLimits(in_flight=256, item_seconds=300.0)
DEFAULT_ROLLING_LIMITS: Final = RollingLimits(open_responses=64, characters=200_000)


class SafetyServicer(safety_pb2_grpc.SafetyServiceServicer):
    """Judges turns with the guards of a catalogue, by the policies of another.

    Args:
        guards: that judge.
        policies: that requests may name.
        stream_limits: bounds on a stream's items.
        rolling_limits: bounds on a stream's growing responses.
        audit: is told of callers' own policies; None: nobody is.

    Attributes:
        turns: how many are being judged.
    """

    def __init__(
        self,
        guards: GuardCatalogue,
        policies: PolicyCatalogue,
        stream_limits: StreamLimits,
        rolling_limits: RollingLimits,
        audit: AuditLog | None = None,
    ) -> None:
        self._guards = guards
        self._policies = policies
        self._assigner = Assigner(guards, policies, audit)
        self._stream_limits = stream_limits
        self._rolling_limits = rolling_limits
        self.turns = WorkMeter()

    async def Classify(
        self,
        request: safety_pb2.ClassifyRequest,
        context: grpc.aio.ServicerContext[safety_pb2.ClassifyRequest, safety_pb2.ClassifyResponse],
    ) -> safety_pb2.ClassifyResponse:
        """Judge one turn."""
        with self.turns.running():
            return safety_pb2.ClassifyResponse(verdict=verdict_to_proto(await judge_one(self._assign(request))))

    async def BatchClassify(
        self,
        request: safety_pb2.BatchClassifyRequest | SalvagedBatch[safety_pb2.ClassifyRequest],
        context: grpc.aio.ServicerContext[safety_pb2.BatchClassifyRequest, safety_pb2.BatchClassifyResponse],
    ) -> safety_pb2.BatchClassifyResponse:
        """Judge many turns; a bad request among them leaves the others alone."""
        count = len(request.requests)
        if not 1 <= count <= MAX_BATCH_REQUESTS:
            raise invalid_field(
                "requests", f"must hold 1 to {MAX_BATCH_REQUESTS}, not {count}; split the batch", reason="BATCH_SIZE"
            )
        with self.turns.running(count), item_spans("BatchClassify/item", map(_trace, request.requests)):
            outcomes = await judge_all([self._try_assign(each, index) for index, each in enumerate(request.requests)])
        return safety_pb2.BatchClassifyResponse(results=[result_to_proto(each) for each in outcomes])

    async def StreamClassify(
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[safety_pb2.StreamClassifyResponse, None]:
        """Judge every item of a stream, and responses as they grow."""
        await context.send_initial_metadata(ITEM_GROUPS_METADATA)
        reader = TurnReader(context, self._assign, self._assign_response, self._rolling_limits)
        async with aclosing(stream_verdicts(reader, self._stream_limits, self.turns)) as verdicts:
            async for group in verdicts:
                for message in told_to_proto(group, together=reader.has_groups):
                    yield message

    async def ListGuards(
        self,
        request: safety_pb2.ListGuardsRequest,
        context: grpc.aio.ServicerContext[safety_pb2.ListGuardsRequest, safety_pb2.ListGuardsResponse],
    ) -> safety_pb2.ListGuardsResponse:
        """List the guards, ordered by name."""
        page = paginate(
            [guard.about for guard in self._guards.guards],
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
        return safety_pb2.GetGuardResponse(guard=guard_to_proto(self._guards.find(request.name, field="name").about))

    async def ListPolicies(
        self,
        request: safety_pb2.ListPoliciesRequest,
        context: grpc.aio.ServicerContext[safety_pb2.ListPoliciesRequest, safety_pb2.ListPoliciesResponse],
    ) -> safety_pb2.ListPoliciesResponse:
        """List the policies, ordered by name."""
        page = paginate(
            self._policies.policies,
            key=lambda policy: policy.name,
            page_size=request.page_size,
            page_token=request.page_token,
            scope="ListPolicies",
        )
        return safety_pb2.ListPoliciesResponse(
            policies=[policy_to_proto(each, problem_of(each, self._guards)) for each in page.items],
            next_page_token=page.next_page_token,
        )

    async def GetPolicy(
        self,
        request: safety_pb2.GetPolicyRequest,
        context: grpc.aio.ServicerContext[safety_pb2.GetPolicyRequest, safety_pb2.GetPolicyResponse],
    ) -> safety_pb2.GetPolicyResponse:
        """Read one policy."""
        policy = self._policies.find(request.name, field="name")
        return safety_pb2.GetPolicyResponse(policy=policy_to_proto(policy, problem_of(policy, self._guards)))

    def _assign(self, request: safety_pb2.ClassifyRequest) -> Assignment:
        return self._assigner.assign(
            turn_from_proto(request),
            guard=request.guard,
            policy=request.policy,
            inline=inline_policy(request.inline_policy) if request.HasField("inline_policy") else None,
        )

    def _assign_response(self, opening: safety_pb2.ResponseOpening, text: str) -> Assignment:
        turns = [*turns_from_proto(opening.conversation), Turn(Role.ASSISTANT, text)]
        threshold = opening.threshold if opening.HasField("threshold") else None
        return self._assigner.assign(
            choose_turn(turns, None, Aspect.RESPONSE, threshold),
            guard=opening.guard,
            policy=opening.policy,
            inline=inline_policy(opening.inline_policy) if opening.HasField("inline_policy") else None,
        )

    def _try_assign(
        self, request: safety_pb2.ClassifyRequest | MalformedRequestError, index: int
    ) -> Assignment | FleetError:
        if isinstance(request, MalformedRequestError):
            return request
        try:
            return self._assign(request)
        except FleetError as error:
            return inside_batch(error, index)


def _trace(request: safety_pb2.ClassifyRequest | MalformedRequestError) -> tuple[str, str]:
    return ("", "") if isinstance(request, MalformedRequestError) else (request.traceparent, "")


def _artifacts(guards: GuardCatalogue) -> Iterator[Artifact]:
    for guard in guards.guards:
        about = guard.about.reference
        told = f"{about.weights_digest}:{about.template_digest}:{about.calibration_digest}"
        yield Artifact(guard.about.name, told)


def hosted(
    guards: GuardCatalogue,
    policies: PolicyCatalogue | None = None,
    *,
    stream_limits: StreamLimits = DEFAULT_STREAM_LIMITS,
    rolling_limits: RollingLimits = DEFAULT_ROLLING_LIMITS,
    audit: AuditLog | None = None,
) -> HostedService:
    """Return what a server needs to serve these guards; it is ready when all of them are.

    Args:
        guards: that judge.
        policies: that requests may name; None: none.
        stream_limits: bounds on a stream's items.
        rolling_limits: bounds on a stream's growing responses.
        audit: is told of callers' own policies; None: nobody is.
    """
    servicer = SafetyServicer(guards, policies or PolicyCatalogue(), stream_limits, rolling_limits, audit)
    return HostedService(
        FULL_NAME,
        lambda server: safety_pb2_grpc.add_SafetyServiceServicer_to_server(servicer, server),
        readiness=guards.are_ready,
        unbounded_methods=UNBOUNDED_METHODS,
        decoders=DECODERS,
        work=servicer.turns.work,
        artifacts=partial(_artifacts, guards),
    )
