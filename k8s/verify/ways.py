"""Checks of ways that no address in a manifest tells: of scrapes, of KEDA's questions, to a database in a Secret."""

from collections.abc import Iterator
from typing import Final

from k8s.verify.network import Way, opens, rules_of
from k8s.verify.network import is_let_in_from as lets_in
from k8s.verify.rendered import Pod, Problem, Rendered, called
from k8s.verify.scaling import address_of

_DATABASE_SECRET: Final = "evalfleet-database"
_DATABASE_PORT: Final = 5432


def check_ways(rendered: Rendered) -> Iterator[Problem]:
    """Network policies let Prometheus scrape, KEDA ask its scaler, and those who are told a database's URL reach it."""
    yield from _scrapes(rendered)
    yield from _questions(rendered)
    for pod in rendered.pods:
        if _is_told_a_database(pod) and not _reaches(rendered, pod, _DATABASE_PORT):
            yield Problem(pod.resource, f"network policies do not let it out to its database (port {_DATABASE_PORT})")


def _scrapes(rendered: Rendered) -> Iterator[Problem]:
    for monitor in rendered.of_kind("PodMonitor"):
        for pod in rendered.selected(monitor["spec"]["selector"]):
            ports = [pod.port(each["port"]) for each in monitor["spec"]["podMetricsEndpoints"]]
            if any(port is not None and not lets_in(rendered, "prometheus", pod, port) for port in ports):
                yield Problem(pod.resource, f"network policies do not let {called(monitor)} scrape it")


def _questions(rendered: Rendered) -> Iterator[Problem]:
    for scaler in rendered.of_kind("ScaledObject"):
        for host, port in filter(None, map(address_of, scaler["spec"]["triggers"])):
            service = rendered.find("Service", host)
            for listener in rendered.selected({"matchLabels": service["spec"]["selector"]}) if service else ():
                if not lets_in(rendered, "keda", listener, port):
                    yield Problem(called(scaler), f"network policies do not let KEDA in to {listener.name}")


def _is_told_a_database(pod: Pod) -> bool:
    sources = [
        variable.get("valueFrom", {}).get("secretKeyRef", {})
        for container in pod.containers
        for variable in container.get("env", ())
    ]
    return any(each.get("name") == _DATABASE_SECRET and each["key"].endswith("-url") for each in sources)


def _reaches(rendered: Rendered, pod: Pod, port: int) -> bool:
    rules = rules_of(rendered, Way.OUT, pod)
    return rules is None or any(opens(each, None, port) for each in rules)
