"""Who calls whom: the addresses that programs are told, and what is there."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import ValidationError

from k8s.verify.rendered import Document, Pod, Rendered
from k8s.verify.workloads import CLIENT_VARIABLES, settings_of, told_values, workload_of

OURS: Final = "EVALFLEET_"
LOOPBACK: Final = ("127.0.0.1", "localhost")
_DONE_WITHOUT: Final = frozenset({("services.scoring", "triton_target")})
"""Addresses that a service need not be told: what it needs them for is then refused (semantic_similarity)."""


class Call(NamedTuple):
    """An address that a container is told.

    Attributes:
        caller: its pods.
        container: itself.
        variable: by which it is told.
        value: of the variable, or the setting's default.
        host: in the value.
        port: in the value; 0 if there is none.
    """

    caller: Pod
    container: Mapping[str, Any]
    variable: str
    value: str
    host: str
    port: int

    @property
    def told(self) -> str:
        """As an operator would write it."""
        return f"{self.variable}={self.value}"

    def service(self, rendered: Rendered) -> Document | None:
        """The Service that is called."""
        return rendered.find("Service", self.host)

    def listeners(self, rendered: Rendered) -> Iterator[tuple[Pod, int]]:
        """Yield the workloads behind the Service, with the number of the port that is called."""
        service = self.service(rendered)
        if service is None:
            return
        for port in (each for each in service["spec"]["ports"] if each["port"] == self.port):
            for pod in rendered.selected({"matchLabels": service["spec"]["selector"]}):
                if (number := pod.port(port.get("targetPort", self.port))) is not None:
                    yield pod, number


def calls(rendered: Rendered) -> Iterator[Call]:
    """Yield every address that a program of ours is told, or has as a default although it needs another one."""
    for pod in rendered.pods:
        for container in pod.containers:
            for variable, value in _addresses(container):
                yield Call(pod, container, variable, value, *host_and_port(value))


def _addresses(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    workload, told = workload_of(container), told_values(container)
    if workload is None:
        return
    if workload.is_client:
        yield from (each for each in told.items() if each[0] in CLIENT_VARIABLES and each[0].endswith("_TARGET"))
    try:
        settings = settings_of(container)
    except ValidationError:
        return
    for field in workload.fields if workload.is_run_by(container) else ():
        variable, value = f"{OURS}{field.upper()}", str(getattr(settings, field))
        if field.endswith("_target") and value:
            if variable in told or (workload.module, field) not in _DONE_WITHOUT:
                yield variable, value
        elif field.endswith("_url") and value.startswith(("redis:", "rediss:", "postgresql:")):
            yield variable, value


def host_and_port(target: str) -> tuple[str, int]:
    """Split ``dns:///name:port``, ``name:port`` or a URL."""
    scheme, separator, rest = target.partition("://")
    if separator and scheme != "dns":
        parts = urlsplit(target)
        return parts.hostname or "", parts.port or 0
    host, _, port = rest.removeprefix("/").rpartition(":") if separator else target.rpartition(":")
    return host, int(port) if port.isdigit() else 0
