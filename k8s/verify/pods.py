"""Checks of single pods: probes, resources, images, memory volumes, and the files that they are told of."""

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.verify.rendered import Pod, Problem, Rendered
from k8s.verify.workloads import service_settings, workload_of
from services.inference.settings import InferenceSettings
from services.runtime.health import LIVENESS, OVERALL
from services.runtime.security.roles import METHOD_ROLES

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_HEALTH_ENTRIES = {OVERALL, LIVENESS, *(method.partition("/")[0] for method in METHOD_ROLES)}
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SHARED_MEMORY = "/dev/shm"


def quantity(told: str | float) -> float:
    """Read one of Kubernetes' quantities: ``500m`` is 0.5, ``1Gi`` is 2³⁰."""
    number = str(told).rstrip("mkMGTi")
    return float(number) * _UNITS[str(told)[len(number) :]]


def check_probes(rendered: Rendered) -> Iterator[Problem]:
    """Each container that serves has all three probes, at ports that it has; services are asked at their health port.

    Of a service, liveness and startup ask for the process alone: whatever it depends on is not healed by a restart.
    """
    for pod in rendered.pods:
        for container in pod.spec["containers"]:
            for name in PROBES:
                for text in _probe_problems(pod, container, name):
                    yield Problem(pod.resource, f"container {container['name']}{text}")


def _probe_problems(pod: Pod, container: Mapping[str, Any], name: str) -> Iterator[str]:
    probe = container.get(name)
    if probe is None:
        if pod.serves:
            yield f" has no {name}"
        return
    handler = next((probe[kind] for kind in ("grpc", "httpGet", "tcpSocket") if kind in probe), None)
    if handler is not None and pod.port(handler["port"]) is None:
        yield f": {name} asks port {handler['port']!r}, which it has not"
    settings = service_settings(container)
    if settings is None or isinstance(settings, InferenceSettings):
        return  # Triton has no port for health alone
    grpc_probe = probe.get("grpc", {})
    if grpc_probe.get("port") != settings.health_port:
        yield f": {name} does not ask its health port, and kubelets speak no TLS (EVALFLEET_HEALTH_PORT)"
    entry = grpc_probe.get("service", OVERALL)
    if entry not in _HEALTH_ENTRIES:
        yield f": {name} asks for {entry}, of no health"
    elif name != "readinessProbe" and entry != LIVENESS:
        yield f": {name} does not ask for {LIVENESS}, so what it depends on restarts it"


def check_resources(rendered: Rendered) -> Iterator[Problem]:
    """Each container says what it takes at least, and what memory and disk it may take at most.

    No limit of CPU is asked for: it would stop a service in the middle of a call although the node is idle.
    """
    for pod in rendered.pods:
        for container in pod.containers:
            told = container.get("resources", {})
            requests, limits = told.get("requests", {}), told.get("limits", {})
            missing = [f"requests.{each}" for each in ("cpu", "memory") if each not in requests]
            missing += [f"limits.{each}" for each in ("memory", "ephemeral-storage") if each not in limits]
            if missing:
                yield Problem(pod.resource, f"container {container['name']} lacks {', '.join(missing)}")
            elif quantity(requests["memory"]) > quantity(limits["memory"]):
                yield Problem(pod.resource, f"container {container['name']} requests more memory than its limit")


def check_images(rendered: Rendered) -> Iterator[Problem]:
    """Each image is named by its registry, which is docker.io where none is told, and by a version or a digest."""
    for pod in rendered.pods:
        for container in pod.containers:
            image = container["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in ("", "latest"):
                yield Problem(pod.resource, f"image {image!r} has no version")
            registry, separator, _ = image.partition("/")
            if not separator or not (registry == "localhost" or {".", ":"} & set(registry)):
                yield Problem(pod.resource, f"image {image!r} names no registry: Docker Hub is asked for it")


def check_memory_volumes(rendered: Rendered) -> Iterator[Problem]:
    """Volumes in memory are bounded and fit below the limits of the containers, whose memory they are.

    Triton's has to be there: a container's own /dev/shm holds 64 MB.
    """
    for pod in rendered.pods:
        in_memory = {
            each["name"]: each["emptyDir"]
            for each in pod.spec.get("volumes", ())
            if each.get("emptyDir", {}).get("medium") == "Memory"
        }
        unbounded = [name for name, told in in_memory.items() if "sizeLimit" not in told]
        if unbounded:
            yield Problem(pod.resource, f"volumes in memory without sizeLimit: {', '.join(unbounded)}")
            continue
        for container in pod.containers:
            mounted = {each["mountPath"]: each["name"] for each in container.get("volumeMounts", ())}
            if _runs_triton(container) and mounted.get(_SHARED_MEMORY) not in in_memory:
                yield Problem(
                    pod.resource, f"container {container['name']} has no volume in memory at {_SHARED_MEMORY}"
                )
            total = sum(quantity(in_memory[name]["sizeLimit"]) for name in mounted.values() if name in in_memory)
            limit = container.get("resources", {}).get("limits", {}).get("memory")
            if limit is not None and total >= quantity(limit):
                yield Problem(pod.resource, f"container {container['name']}: its volumes in memory fill its limit")


def check_paths(rendered: Rendered) -> Iterator[Problem]:
    """Each file and folder that a service is told of lies on a volume, and its state on one that it may write to."""
    for pod in rendered.pods:
        for container in pod.containers:
            for variable in container.get("env", ()):
                for path in _paths(variable):
                    yield from _check_path(pod, container, variable["name"], path)


def _paths(variable: Mapping[str, Any]) -> list[str]:
    value = str(variable.get("value", ""))
    is_ours = variable["name"].startswith("EVALFLEET_")
    return [each for each in value.split(":") if each.startswith("/")] if is_ours and "//" not in value else []


def _check_path(pod: Pod, container: Mapping[str, Any], variable: str, path: str) -> Iterator[Problem]:
    if path.startswith("/opt/evalfleet"):
        return
    mounts = [each for each in container.get("volumeMounts", ()) if f"{path}/".startswith(f"{each['mountPath']}/")]
    if not mounts:
        yield Problem(pod.resource, f"{variable}={path}: no volume is mounted there")
        return
    nearest = max(mounts, key=lambda each: len(each["mountPath"]))
    if variable == "EVALFLEET_STATE_DIR" and nearest.get("readOnly"):
        yield Problem(pod.resource, f"{variable}={path}: the volume is read-only")


def _runs_triton(container: Mapping[str, Any]) -> bool:
    workload = workload_of(container)
    return workload is not None and workload.settings_class is InferenceSettings and workload.is_run_by(container)
