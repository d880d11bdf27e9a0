"""A fake of the safety service: gives the verdict that a test puts in."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from google.rpc import status_pb2

from tests.fakes.refusing import fail


class FakeSafety(safety_pb2_grpc.SafetyServiceServicer):
    """Answers every Classify, and every item of a stream, with ``verdict``, or as ``judges`` say of their guard."""

    def __init__(self) -> None:
        self.judges: dict[str, Callable[[safety_pb2.ClassifyRequest], safety_pb2.Verdict]] = {}
        self.requests: list[safety_pb2.ClassifyRequest] = []
        self.streamed: list[safety_pb2.StreamClassifyRequest] = []
        self.policies = [safety_pb2.Policy(name="policies/strict", version="1", threshold=0.3, description="Doubt.")]
        self.verdict = safety_pb2.Verdict(
            decision=safety_pb2.DECISION_UNSAFE,
            unsafe_probability=0.91,
            threshold_applied=0.5,
            guard=safety_pb2.GuardReference(name="guards/minilm-hazard"),
            categories=[
                safety_pb2.CategoryScore(
                    taxonomy="evalfleet-hazards", code="violence", probability=0.875, ailuminate_code="vcr"
                )
            ],
        )

    def Classify(
        self, request: safety_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ClassifyResponse:
        self.requests.append(request)
        return safety_pb2.ClassifyResponse(verdict=self.verdict)

    def BatchClassify(
        self, request: safety_pb2.BatchClassifyRequest, context: grpc.ServicerContext
    ) -> safety_pb2.BatchClassifyResponse:
        return safety_pb2.BatchClassifyResponse(results=[self._judged(each) for each in request.requests])

    def StreamClassify(
        self, request_iterator: Iterator[safety_pb2.StreamClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[safety_pb2.StreamClassifyResponse]:
        for each in request_iterator:
            self.streamed.append(each)
            if each.HasField("request") and each.request.guard in self.judges:
                result = self._judged(each.request)
                outcome: Any = {"verdict": result.verdict} if result.HasField("verdict") else {"status": result.status}
                yield safety_pb2.StreamClassifyResponse(item_id=each.item_id, final=True, **outcome)
            elif each.HasField("request") or each.piece.last:
                yield safety_pb2.StreamClassifyResponse(item_id=each.item_id, verdict=self.verdict, final=True)

    def _judged(self, request: safety_pb2.ClassifyRequest) -> safety_pb2.ClassifyResult:
        if not request.conversation.messages[-1].content:
            return safety_pb2.ClassifyResult(status=status_pb2.Status(code=3, message="is empty"))
        return safety_pb2.ClassifyResult(verdict=self.judges[request.guard](request))

    def ListGuards(
        self, request: safety_pb2.ListGuardsRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ListGuardsResponse:
        guard = safety_pb2.Guard(name="guards/minilm-hazard", description="Small.", reference=self.verdict.guard)
        return safety_pb2.ListGuardsResponse(guards=[guard])

    def GetGuard(
        self, request: safety_pb2.GetGuardRequest, context: grpc.ServicerContext
    ) -> safety_pb2.GetGuardResponse:
        if request.name not in self.judges:
            fail(context, grpc.StatusCode.NOT_FOUND, f"no guard named {request.name!r}", reason="GUARD_NOT_FOUND")
        digest = request.name.removeprefix("guards/")[0] * 64
        reference = safety_pb2.GuardReference(
            name=request.name,
            weights_digest=digest,
            template_digest="t" * 64,
            calibration_digest="c" * 64,
            engine="fake",
            dtype="float32",
        )
        return safety_pb2.GetGuardResponse(guard=safety_pb2.Guard(name=request.name, reference=reference))

    def ListPolicies(
        self, request: safety_pb2.ListPoliciesRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ListPoliciesResponse:
        return safety_pb2.ListPoliciesResponse(policies=self.policies)

    def GetPolicy(
        self, request: safety_pb2.GetPolicyRequest, context: grpc.ServicerContext
    ) -> safety_pb2.GetPolicyResponse:
        return safety_pb2.GetPolicyResponse(policy=self.policies[0])
