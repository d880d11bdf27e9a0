"""Checks of what services are told: every variable is one that they read, and every address is one that is there."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from k8s.verify.network import Way, is_let_through
from k8s.verify.rendered import Pod, Problem, Rendered
from k8s.verify.workloads import CLIENT_VARIABLES, is_there, settings_of, told_values, workload_of

OURS: Final = "EVALFLEET_"
_OF_LIBRARIES: Final = frozenset({"HOME"})
"""Variables of others that our images' programs may be given."""
_LOOPBACK: Final = ("127.0.0.1", "localhost")
_DONE_WITHOUT: Final = frozenset({("services.scoring", "triton_target")})
"""Addresses that a service need not be told: what it needs them for is then refused (semantic_similarity)."""


def check_variables(rendered: Rendered) -> Iterator[Problem]:
    """Each variable is one that the program reads, is told once, and has a value that the program takes."""
    for pod in rendered.pods:
        for container in pod.containers:
            workload = workload_of(container)
            if workload is None:
                continue
            if not is_there(container):
                yield Problem(pod.resource, f"container {container['name']} runs a module that is not there")
            names = [each["name"] for each in container.get("env", ())]
            expanded = " ".join((*told_values(container).values(), *container.get("args", ())))
            for name in dict.fromkeys(names):
                if name not in workload.variables | _OF_LIBRARIES and f"$({name})" not in expanded:
                    yield Problem(pod.resource, f"{workload.module} reads no variable {name}")
                if names.count(name) > 1:
                    yield Problem(pod.resource, f"{name} is told twice")
            yield from _refused(pod, container)


def _refused(pod: Pod, container: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        settings_of(container)
    except ValidationError as error:
        for each in error.errors():
            field = str(each["loc"][0]) if each["loc"] else ""
            yield Problem(pod.resource, f"the value of {OURS}{field.upper()} is refused: {each['msg']}")


def check_targets(rendered: Rendered) -> Iterator[Problem]:
    """Each address that a program is told is a port of a Service, and network policies let it through."""
    for pod in rendered.pods:
        for container in pod.containers:
            for name, value in _addresses(pod, container):
                host, port = _host_and_port(value)
                if host in _LOOPBACK:
                    yield Problem(pod.resource, f"is not told where {name} is; its default is {value}")
                else:
                    yield from _check_address(rendered, pod, f"{name}={value}", host, port)


def _addresses(pod: Pod, container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the variables of addresses and their values, of settings also those that are not told."""
    workload, told = workload_of(container), told_values(container)
    if workload is None:
        return
    if workload.is_client:
        yield from ((name, value) for name, value in told.items() if name in CLIENT_VARIABLES and name.endswith("_TARGET"))
    if workload.settings_class is None or ".migrate" in str(container.get("args")):
        return
    try:
        settings = settings_of(container)
    except ValidationError:
        return
    for field in workload.settings_class.model_fields:
        value = getattr(settings, field)
        is_url = field.endswith("_url") and "://" in str(value) and not str(value).startswith(("sqlite:", "https:"))
        variable = f"{OURS}{field.upper()}"
        if field.endswith("_target") and value:
            if variable in told or (workload.module, field) not in _DONE_WITHOUT:
                yield variable, value
        elif is_url:
            yield variable, value


def _check_address(rendered: Rendered, pod: Pod, told: str, host: str, port: int) -> Iterator[Problem]:
    service = rendered.find("Service", host)
    if service is None:
        yield Problem(pod.resource, f"{told}: there is no Service {host}")
        return
    listed = {each["port"]: each for each in service["spec"]["ports"]}
    if port not in listed:
        yield Problem(pod.resource, f"{told}: Service/{host} has no port {port}")
        return
    for peer in rendered.selected({"matchLabels": service["spec"]["selector"]}):
        target = peer.port(listed[port].get("targetPort", port))
        if target is None:
            continue
        for way in Way:
            if not is_let_through(rendered, way, pod, peer, target):
                yield Problem(pod.resource, f"{told}: network policies do not let it {way.value} {peer.name}")


def _host_and_port(target: str) -> tuple[str, int]:
    """Split ``dns:///name:port``, ``name:port`` or a URL; 0 stands for a port that is not told."""
    scheme, separator, rest = target.partition("://")
    if separator and scheme != "dns":
        parts = urlsplit(target)
        return parts.hostname or "", parts.port or 0
    host, _, port = rest.removeprefix("/").rpartition(":") if separator else target.rpartition(":")
    return host, int(port) if port.isdigit() else 0
