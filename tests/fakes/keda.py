"""KEDA's operator as the scaler sees it: a real gRPC client, with a clock of its own."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import grpc

from benchmarks.autoscaling.keda import Fallback, KedaOperator, Sample, ScaledObject, Trigger
from services.evaluation.keda import externalscaler_pb2, externalscaler_pb2_grpc
from services.runtime.channels import open_channel
from tests.patience import LONGEST_WAIT_SECONDS

POLLING_SECONDS = 15.0
COOLDOWN_SECONDS = 300.0
RECONNECT_SECONDS = 0.01


class Keda:
    """Holds one external-push trigger's target to what the scaler says, from no replicas on.

    Args:
        addresses: of the scaler's replicas, which are asked in turn.
        metadata: of the trigger.

    Attributes:
        replicas: what the target has.
        now: seconds on its clock, which ``ask`` moves.
        woken: set whenever a stream has pushed.
        streams: how many streams have been opened.
    """

    def __init__(self, addresses: Sequence[str], metadata: Mapping[str, str]) -> None:
        self.reference = externalscaler_pb2.ScaledObjectRef(
            name="triton", namespace="evalfleet", scalerMetadata={"scalerAddress": "evaluation:8100", **metadata}
        )
        self._target = f"ipv4:{','.join(addresses)}"
        self._metadata = metadata
        self.replicas = 0
        self.now = 0.0
        self.woken = asyncio.Event()
        self.streams = 0
        self.pushed: list[bool] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Keda"]:
        """Ask for the metric, and hold the stream open."""
        async with open_channel(self._target) as channel:
            self.stub = externalscaler_pb2_grpc.ExternalScalerStub(channel)
            [self.spec] = (await self.stub.GetMetricSpec(self.reference)).metricSpecs
            trigger = Trigger("external-push", dict(self._metadata), self.spec.targetSizeFloat)
            self.operator = KedaOperator(
                ScaledObject(
                    "triton",
                    "triton",
                    (trigger,),
                    polling_seconds=POLLING_SECONDS,
                    cooldown_seconds=COOLDOWN_SECONDS,
                    fallback=Fallback(3, 1, "currentReplicas"),
                )
            )
            listening = asyncio.create_task(self._listen())
            try:
                yield self
            finally:
                listening.cancel()
                await asyncio.wait([listening])

    async def _listen(self) -> None:
        while True:
            self.streams += 1
            with suppress(grpc.aio.AioRpcError):
                async for answer in self.stub.StreamIsActive(self.reference):
                    self.pushed.append(answer.result)
                    self.replicas = self.operator.woken(self.now, self.replicas)
                    self.woken.set()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def sample(self) -> Sample | None:
        """What the scaler answers; None if it does not."""
        try:
            question = externalscaler_pb2.GetMetricsRequest(
                scaledObjectRef=self.reference, metricName=self.spec.metricName
            )
            [value] = (await self.stub.GetMetrics(question)).metricValues
            active = (await self.stub.IsActive(self.reference)).result
        except grpc.aio.AioRpcError:
            return None
        return Sample(value.metricValueFloat or value.metricValue, active)

    async def ask(self, *, after_seconds: float = POLLING_SECONDS) -> int:
        """Let time pass and decide once; return the replicas."""
        self.now += after_seconds
        sample = await self.sample()
        self.replicas = self.operator.poll(self.now, self.replicas, [sample])
        self.replicas = self.operator.scale(self.now, self.replicas, [sample])
        return self.replicas

    async def settled(self, replicas: int) -> None:
        """Ask until there are so many replicas."""
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while await self.ask() != replicas:  # noqa: ASYNC110 - the scaler is asked
                await asyncio.sleep(0.01)
