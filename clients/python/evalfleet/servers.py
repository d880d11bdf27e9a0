"""What a process of the fleet says of itself: its version, contract, settings and models."""

from dataclasses import dataclass
from datetime import UTC, datetime

from evalfleet.server.v1 import server_pb2


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model or guard that answers hang on, and its digest."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One process of a fleet; behind a balancer, the one that happened to answer.

    ``contract_digest`` is equal where the protos are, and ``settings_digest`` where replicas are configured alike.
    ``revision`` is empty if nobody said what the image was built from.
    """

    service: str
    instance: str
    version: str
    revision: str
    contract_digest: str
    settings_digest: str
    service_names: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    start_time: datetime
    uptime_seconds: float


def server_info_from_proto(told: server_pb2.ServerInfo) -> ServerInfo:
    """Read what a service told."""
    return ServerInfo(
        service=told.service,
        instance=told.instance,
        version=told.version,
        revision=told.revision,
        contract_digest=told.contract_digest,
        settings_digest=told.settings_digest,
        service_names=tuple(told.service_names),
        artifacts=tuple(Artifact(each.name, each.digest) for each in told.artifacts),
        start_time=told.start_time.ToDatetime(UTC),
        uptime_seconds=told.uptime.ToMicroseconds() / 1e6,
    )
