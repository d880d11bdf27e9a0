"""The safety service over gRPC."""

from collections.abc import Collection, Sequence

import grpc.aio
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

from services.evaluation.items import Message
from services.evaluation.judging_specification import SafetyJudging
from services.evaluation.runs import translation
from services.evaluation.runs.peers import SafetyVerdict
from services.runtime.errors import FailedPreconditionError, from_rpc_error

_ASPECTS = {"prompt": safety_pb2.ASPECT_PROMPT, "response": safety_pb2.ASPECT_RESPONSE}


class RemoteSafetyJudge:
    """The safety service behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._stub = safety_pb2_grpc.SafetyServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def classify(self, messages: Sequence[Message], judging: SafetyJudging) -> SafetyVerdict:
        """Judge the last of the turns."""
        request = safety_pb2.ClassifyRequest(
            conversation=translation.conversation(messages),
            aspect=_ASPECTS[judging.aspect],
            guard=_guard_name(judging),
            policy=_policy_name(judging),
            threshold=judging.threshold,
        )
        try:
            verdict = (await self._stub.Classify(request, timeout=self._timeout_seconds)).verdict
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return translation.verdict_from_proto(verdict)

    async def check(self, judgings: Sequence[SafetyJudging]) -> None:
        """Raise NotFoundError or FailedPreconditionError if a named guard or policy cannot judge as asked."""
        try:
            for judging in judgings:
                if judging.guard:
                    await self._check_guard(judging)
                if judging.policy:
                    await self._check_policy(judging)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _check_guard(self, judging: SafetyJudging) -> None:
        request = safety_pb2.GetGuardRequest(name=_guard_name(judging))
        guard = (await self._stub.GetGuard(request, timeout=self._timeout_seconds)).guard
        _check_aspect(judging, guard.name, guard.aspects)

    async def _check_policy(self, judging: SafetyJudging) -> None:
        request = safety_pb2.GetPolicyRequest(name=_policy_name(judging))
        policy = (await self._stub.GetPolicy(request, timeout=self._timeout_seconds)).policy
        _check_aspect(judging, policy.name, policy.aspects or _ASPECTS.values())
        # What a policy cannot do with its own guards, it may be able to do with the one that is asked for.
        if policy.problem and not judging.guard:
            raise FailedPreconditionError(
                f"{policy.name} cannot be applied by the safety service: {policy.problem}",
                reason="POLICY_NOT_APPLICABLE",
                metadata={"policy": policy.name},
            )
        if judging.guard and list(policy.guards) not in ([], [_guard_name(judging)]):
            raise FailedPreconditionError(
                f"{policy.name} asks {', '.join(policy.guards)}; leave out guard, or take another policy",
                reason="POLICY_CONTRADICTED",
                metadata={"policy": policy.name},
            )


def _guard_name(judging: SafetyJudging) -> str:
    return f"guards/{judging.guard}" if judging.guard else ""


def _policy_name(judging: SafetyJudging) -> str:
    return f"policies/{judging.policy}" if judging.policy else ""


def _check_aspect(judging: SafetyJudging, judge: str, aspects: Collection["safety_pb2.Aspect.ValueType"]) -> None:
    if _ASPECTS[judging.aspect] not in aspects:
        raise FailedPreconditionError(
            f"{judge} does not judge a {judging.aspect}", reason="ASPECT_NOT_JUDGED", metadata={"judge": judge}
        )
