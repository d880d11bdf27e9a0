"""KEDA's ExternalScaler: says what runs want of a deployment, and wakes one that sleeps."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

import grpc
import structlog

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.keda import externalscaler_pb2, externalscaler_pb2_grpc
from services.evaluation.scaling.demand import Deployment
from services.evaluation.scaling.open_work import OpenWork
from services.evaluation.scaling.refusals import Refusals
from services.evaluation.scaling.trigger import Trigger, check_metric_name, read_trigger
from services.runtime.server import HostedService

FULL_NAME: Final[str] = externalscaler_pb2.DESCRIPTOR.services_by_name["ExternalScaler"].full_name

_STREAM_SHARE: Final = 0.8
"""Of the age of connections, which may be a tenth less than it is set to."""

_LOG = structlog.stdlib.get_logger(__name__)


def hosted_scaler(
    work: OpenWork, refusals: Refusals, *, connection_seconds: float, poll_seconds: float = 1.0
) -> HostedService:
    """The scaler as a service of a server whose connections are renewed after ``connection_seconds``."""
    servicer = ExternalScalerServicer(
        work, refusals, stream_seconds=_STREAM_SHARE * connection_seconds, poll_seconds=poll_seconds
    )
    return HostedService(
        full_name=FULL_NAME,
        add_to_server=lambda server: externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(servicer, server),
        unbounded_methods=frozenset({"StreamIsActive"}),
    )


class ExternalScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """Answers KEDA from the list of runs, so that any replica says the same.

    Args:
        work: what is open.
        refusals: calls that found a deployment asleep.
        stream_seconds: a stream is ended after so long, before the connection's age ends it: KEDA comes back after two
            seconds then, and after up to a minute if it was an error.
        poll_seconds: how often a stream looks whether there is work.
    """

    def __init__(self, work: OpenWork, refusals: Refusals, *, stream_seconds: float, poll_seconds: float) -> None:
        self._work = work
        self._refusals = refusals
        self._stream_seconds = stream_seconds
        self._poll_seconds = poll_seconds

    async def IsActive(
        self,
        request: externalscaler_pb2.ScaledObjectRef,
        context: grpc.aio.ServicerContext[externalscaler_pb2.ScaledObjectRef, externalscaler_pb2.IsActiveResponse],
    ) -> externalscaler_pb2.IsActiveResponse:
        """Say whether there is work; an error keeps KEDA from putting anything to sleep."""
        trigger = read_trigger(request.scalerMetadata)
        return externalscaler_pb2.IsActiveResponse(result=await self._value(trigger) > 0)

    async def StreamIsActive(
        self,
        request: externalscaler_pb2.ScaledObjectRef,
        context: grpc.aio.ServicerContext[externalscaler_pb2.ScaledObjectRef, externalscaler_pb2.IsActiveResponse],
    ) -> AsyncIterator[externalscaler_pb2.IsActiveResponse]:
        """Say when work comes; never that there is none, which KEDA up to 2.17 takes for the end of all other triggers.

        Deployments go to sleep by IsActive alone, after the cooldown.
        """
        trigger = read_trigger(request.scalerMetadata)
        clock = asyncio.get_running_loop().time
        ends_at = clock() + self._stream_seconds
        was_active = False
        while (seconds_left := ends_at - clock()) > 0:
            is_active = await self._still_active(trigger, was_active)
            if is_active and not was_active:
                _LOG.info("scaling_woken", deployment=trigger.deployment.value, scaled_object=request.name)
                yield externalscaler_pb2.IsActiveResponse(result=True)
            was_active = is_active
            await asyncio.sleep(min(self._poll_seconds, seconds_left))

    async def GetMetricSpec(
        self,
        request: externalscaler_pb2.ScaledObjectRef,
        context: grpc.aio.ServicerContext[externalscaler_pb2.ScaledObjectRef, externalscaler_pb2.GetMetricSpecResponse],
    ) -> externalscaler_pb2.GetMetricSpecResponse:
        """Name the metric and its target a replica."""
        trigger = read_trigger(request.scalerMetadata)
        spec = externalscaler_pb2.MetricSpec(
            metricName=trigger.metric_name,
            targetSize=max(1, round(trigger.work_per_replica)),
            targetSizeFloat=trigger.work_per_replica,
        )
        return externalscaler_pb2.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(
        self,
        request: externalscaler_pb2.GetMetricsRequest,
        context: grpc.aio.ServicerContext[externalscaler_pb2.GetMetricsRequest, externalscaler_pb2.GetMetricsResponse],
    ) -> externalscaler_pb2.GetMetricsResponse:
        """Say how much work there is, over all replicas."""
        metadata: Mapping[str, str] = request.scaledObjectRef.scalerMetadata
        trigger = read_trigger(metadata)
        check_metric_name(trigger, request.metricName)
        work = await self._value(trigger)
        value = externalscaler_pb2.MetricValue(
            metricName=trigger.metric_name, metricValue=work, metricValueFloat=float(work)
        )
        return externalscaler_pb2.GetMetricsResponse(metricValues=[value])

    async def _value(self, trigger: Trigger) -> int:
        work = (await self._work.demand()).of(trigger.deployment)
        is_wanted = self._refusals.are_recent and trigger.deployment is not Deployment.EVALUATION
        return max(work, 1) if is_wanted else work

    async def _still_active(self, trigger: Trigger, was_active: bool) -> bool:
        """Whether there is work; as before while the database is away, of which the other methods tell."""
        try:
            return await self._value(trigger) > 0
        except RunsUnavailableError:
            return was_active
