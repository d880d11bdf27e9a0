"""Checks of what keeps a service there: disruption budgets, spread, time to drain, and who shares its state."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from k8s.verify.rendered import Problem, Rendered, called, selects
from k8s.verify.scaling import SCALERS, target_of
from k8s.verify.workloads import settings_of
from services.dashboard.serving import DRAIN_SECONDS
from services.dashboard.settings import DashboardSettings
from services.inference.settings import InferenceSettings
from services.inference.triton_server import KILL_MARGIN_SECONDS
from services.runtime.settings import ServiceSettings

MARGIN_SECONDS: Final = 10.0
"""What a process may take to end beside its drain: it closes databases, and its kubelet is late."""
_LONGEST_IDLE_SECONDS: Final = 60.0
_TOPOLOGIES: Final = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")


def check_disruption_budgets(rendered: Rendered) -> Iterator[Problem]:
    """Each workload that serves has one budget, which lets a node be emptied: of sick pods always."""
    budgets = rendered.of_kind("PodDisruptionBudget")
    for budget in budgets:
        if not rendered.selected(budget["spec"]["selector"]):
            yield Problem(called(budget), "selects no pods")
        if budget["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield Problem(called(budget), "pods that are not healthy hold up the drain of a node")
        if budget["spec"].get("maxUnavailable") in (None, 0, "0%"):
            yield Problem(called(budget), "says no maxUnavailable above 0, so a node cannot be emptied")
    for pod in rendered.pods:
        count = sum(selects(each["spec"]["selector"], pod.labels) for each in budgets)
        if pod.serves and count != 1:
            yield Problem(pod.resource, f"has {count or 'no'} disruption budget{'s' if count else ''}")


def check_spread(rendered: Rendered) -> Iterator[Problem]:
    """Pods of a workload are spread over zones and nodes, and among themselves alone."""
    for pod in rendered.pods:
        if not pod.serves:
            continue
        constraints = {each["topologyKey"]: each for each in pod.spec.get("topologySpreadConstraints", ())}
        for topology in _TOPOLOGIES:
            if topology not in constraints:
                yield Problem(pod.resource, f"is not spread over {topology}")
                continue
            found = rendered.selected(constraints[topology].get("labelSelector", {}))
            if found != [pod]:
                names = ", ".join(each.name for each in found) or "nothing"
                yield Problem(pod.resource, f"is spread over {topology} among {names}")
            if constraints[topology].get("maxSkew") != 1:
                yield Problem(pod.resource, f"may be uneven over {topology}: maxSkew is not 1")


def check_grace(rendered: Rendered) -> Iterator[Problem]:
    """A pod has the time that it needs to go: preStop, its service's drain and a margin; it waits before it drains."""
    for pod in rendered.pods:
        if not pod.serves:
            continue
        given = pod.spec.get("terminationGracePeriodSeconds", 30)
        for container in pod.spec["containers"]:
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            drain = _drain_seconds(container)
            if drain is None:
                continue
            if not pause:
                yield Problem(pod.resource, "drains while callers still find it: no preStop sleep")
            needed = math.ceil(pause + drain + MARGIN_SECONDS)
            if not needed <= given <= needed + _LONGEST_IDLE_SECONDS:
                yield Problem(
                    pod.resource,
                    f"terminationGracePeriodSeconds is {given}; preStop {pause:g} + drain {drain:g} + margin "
                    f"{MARGIN_SECONDS:g} make {needed}",
                )


def check_replicas(rendered: Rendered) -> Iterator[Problem]:
    """What keeps its state in a volume of one node is there once, and nothing scales it or starts a second one."""
    claims = {
        each["metadata"]["name"]: each["spec"]["accessModes"] for each in rendered.of_kind("PersistentVolumeClaim")
    }
    for deployment in rendered.of_kind("Deployment"):
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        own = f"{name}-state"
        mounted = [
            each.get("persistentVolumeClaim", {}).get("claimName") for each in spec["template"]["spec"]["volumes"]
        ]
        if own not in mounted or "ReadWriteOnce" not in claims.get(own, ()):
            continue
        most = max([spec.get("replicas", 1), *(_most_replicas(rendered, name))])
        if most > 1 or spec.get("strategy", {}).get("type") != "Recreate":
            yield Problem(called(deployment), f"shares {own}, which belongs to one process, with a second one")


def _most_replicas(rendered: Rendered, deployment: str) -> list[int]:
    scalers = [each for each in rendered.of_kind(*SCALERS) if target_of(each) == ("Deployment", deployment)]
    return [each["spec"].get("maxReplicas", each["spec"].get("maxReplicaCount", 100)) for each in scalers]


def _drain_seconds(container: Mapping[str, Any]) -> float | None:
    """Longest time from SIGTERM until a service of ours begins to close; ``None``: no service."""
    try:
        settings = settings_of(container)
    except ValidationError:
        return None
    return None if settings is None else drain_seconds(settings)


def drain_seconds(settings: BaseSettings) -> float:
    """Return how long a service with these settings may go on after SIGTERM."""
    match settings:
        case InferenceSettings():
            return settings.exit_timeout_seconds + KILL_MARGIN_SECONDS
        case ServiceSettings():
            return settings.drain_delay_seconds + settings.drain_grace_seconds
        case DashboardSettings():
            return DRAIN_SECONDS
        case _:
            raise TypeError(f"how long {type(settings).__name__} drain is not known")
