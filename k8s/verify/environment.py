"""Checks of what programs are told: every variable is one that they read, and every address is one that is there."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from k8s.verify.calls import LOOPBACK, OURS, Call, calls
from k8s.verify.network import Way, is_let_through
from k8s.verify.rendered import Pod, Problem, Rendered
from k8s.verify.workloads import settings_of, told_values, workload_of

_SEEN_BY_TRITON: Final = frozenset(
    {"checkpoint_roots", "download_dir", "encoder_path", "guard_checkpoint", "similarity_encoder_path"}
)
"""Settings whose folders Triton reads, under the path that it is told."""
_OF_LIBRARIES: Final = ("HOME", "OTEL_")
"""How variables begin that libraries in our programs read."""


def check_variables(rendered: Rendered) -> Iterator[Problem]:
    """Each variable is one that the program reads, is told once, and has a value that the program takes."""
    for pod in rendered.pods:
        for container in pod.containers:
            workload = workload_of(container)
            if workload is None:
                continue
            names = [each["name"] for each in container.get("env", ())]
            expanded = " ".join((*told_values(container).values(), *container.get("args", ())))
            for name in dict.fromkeys(names):
                is_read = name in workload.variables or name.startswith(_OF_LIBRARIES) or f"$({name})" in expanded
                if not is_read:
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
    for call in calls(rendered):
        if call.host in LOOPBACK:
            text = f"is not told where {call.variable} is; its default is {call.value}"
            yield Problem(call.caller.resource, text)
        else:
            yield from (Problem(call.caller.resource, f"{call.told}: {each}") for each in _obstacles(rendered, call))


def check_folders(rendered: Rendered) -> Iterator[Problem]:
    """Triton sees the folders that services tell it of, at the same paths."""
    for call in calls(rendered):
        if not call.variable.endswith("TRITON_TARGET"):
            continue
        told = told_values(call.container)
        for variable in (f"{OURS}{field.upper()}" for field in sorted(_SEEN_BY_TRITON)):
            for listener, _ in call.listeners(rendered) if variable in told else ():
                mounts = [each["mountPath"] for each in listener.spec["containers"][0].get("volumeMounts", ())]
                if not any(f"{told[variable]}/".startswith(f"{each}/") for each in mounts):
                    yield Problem(call.caller.resource, f"{variable}={told[variable]}: {listener.name} does not see it")


def _obstacles(rendered: Rendered, call: Call) -> Iterator[str]:
    service = call.service(rendered)
    if service is None:
        yield f"there is no Service {call.host}"
    elif call.port not in [each["port"] for each in service["spec"]["ports"]]:
        yield f"Service/{call.host} has no port {call.port}"
    for listener, port in call.listeners(rendered):
        for way in Way:
            if not is_let_through(rendered, way, call.caller, listener, port):
                yield f"network policies do not let it {way.value} {listener.name}"
