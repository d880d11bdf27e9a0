"""What a process of the fleet runs: its version, contract, settings and models; served by every service."""

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import grpc
from evalfleet.server.v1 import server_pb2, server_pb2_grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from pydantic import SecretStr

from services.runtime.settings import ServiceSettings
from services.runtime.versions import services_version

SERVER_SERVICE: Final = server_pb2.DESCRIPTOR.services_by_name["ServerService"].full_name
REVISION_VARIABLE: Final = "EVALFLEET_BUILD_REVISION"
"""Set in images: the revision of the source that they were built from."""

_SECRET: Final = re.compile(r"secret|password|token|(^|_)keys?($|_)")
_OF_ONE_REPLICA: Final = frozenset({"host", "port", "metrics_port", "ready_file", "parent_pid", "state_dir"})
_URL_USER: Final = re.compile(r"(?<=://)[^/@\s]*@")


class Artifact(NamedTuple):
    """Something that answers hang on: its resource name and digest."""

    name: str
    digest: str


ArtifactSource: TypeAlias = Callable[[], Iterable[Artifact]]
"""Says what a service answers with now."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What stays the same while a process serves.

    Attributes:
        service: name of the service: ``generation``.
        contract_digest: see ``contract_digest``.
        settings_digest: see ``settings_digest``.
        service_names: full names of what it serves.
        start_seconds: when it began, of ``time.time``.
    """

    service: str
    contract_digest: str
    settings_digest: str
    service_names: tuple[str, ...]
    start_seconds: float


class ServerServicer(server_pb2_grpc.ServerServiceServicer):
    """Tells what the process runs.

    Args:
        identity: what stays the same.
        artifacts: what the services answer with.
    """

    def __init__(self, identity: ServerIdentity, artifacts: Sequence[ArtifactSource]) -> None:
        self._identity = identity
        self._artifacts = tuple(artifacts)

    async def GetServerInfo(
        self,
        request: server_pb2.GetServerInfoRequest,
        context: grpc.aio.ServicerContext[server_pb2.GetServerInfoRequest, server_pb2.GetServerInfoResponse],
    ) -> server_pb2.GetServerInfoResponse:
        """Read which program answers here."""
        about = self._identity
        info = server_pb2.ServerInfo(
            service=about.service,
            instance=instance_name(),
            version=services_version(),
            revision=os.environ.get(REVISION_VARIABLE) or None,
            contract_digest=about.contract_digest,
            settings_digest=about.settings_digest,
            service_names=about.service_names,
        )
        info.artifacts.extend(
            server_pb2.Artifact(name=name, digest=digest)
            for name, digest in sorted({each for source in self._artifacts for each in source()})
        )
        info.start_time.FromMicroseconds(int(about.start_seconds * 1e6))
        info.uptime.FromMicroseconds(max(0, int((time.time() - about.start_seconds) * 1e6)))
        return server_pb2.GetServerInfoResponse(server=info)


def instance_name() -> str:
    """Return what tells this process from its replicas."""
    return f"{socket.gethostname()}:{os.getpid()}"


def contract_digest(service_names: Iterable[str]) -> str:
    """Return the SHA-256 (hex) over the proto files of services and all that they import, comments left out."""
    files: dict[str, bytes] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            files[file.name] = file.serialized_pb
            for each in file.dependencies:
                add(each)

    for name in service_names:
        try:
            add(descriptor_pool.Default().FindServiceByName(name).file)
        except KeyError:
            # Served without a proto, by a test.
            continue
    digest = hashlib.sha256()
    for file_name in sorted(files):
        digest.update(file_name.encode() + b"\0" + files[file_name])
    return digest.hexdigest()


def settings_digest(settings: ServiceSettings) -> str:
    """Return the SHA-256 (hex) over settings: equal where replicas are configured alike.

    Secrets are left out, for a digest of few possibilities tells which it was: fields that are named for one or typed
    as one, and what URLs have before their host. So is what each replica has for itself: addresses and folders.
    """
    told = {
        name: _readable(value)
        for name, value in dict(settings).items()
        if name not in _OF_ONE_REPLICA and not _SECRET.search(name) and not isinstance(value, SecretStr)
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _readable(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_readable(each) for each in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if isinstance(value, bool | int | float) or value is None:
        return value
    return _URL_USER.sub("", str(value))
