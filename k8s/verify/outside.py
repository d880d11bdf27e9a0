"""Checks that whoever is told of an issuer or a collector outside the namespace may reach it."""

from collections.abc import Iterator
from typing import Final

from k8s.verify.calls import LOOPBACK, host_and_port
from k8s.verify.network import Way, is_outside, is_provided, opens, rules_of
from k8s.verify.rendered import Pod, Problem, Rendered
from k8s.verify.workloads import service_settings, told_values

_COLLECTOR: Final = frozenset({"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"})
_TOLD_BY: Final = frozenset({"EVALFLEET_OIDC_ISSUER", "EVALFLEET_OIDC_JWKS_URL"}) | _COLLECTOR
_WITHOUT_WAY_OUT: Final = frozenset({"code-runner"})
"""Who may send nothing to anybody: programs that models wrote run there."""


def check_outside(rendered: Rendered) -> Iterator[Problem]:
    """Whoever is told of a tokens' issuer or a collector of traces is let out to its port; traces have no hole."""
    for pod in rendered.pods:
        for container in pod.containers:
            for name, value in told_values(container).items():
                host, port = host_and_port(value) if name in _TOLD_BY else ("", 0)
                port = port or (443 if value.startswith("https:") else 80)
                if host and host not in LOOPBACK and not _may_leave(rendered, pod, port):
                    yield Problem(pod.resource, f"{name}={value}: network policies do not let it out to port {port}")
    yield from _untraced(rendered)


def _untraced(rendered: Rendered) -> Iterator[Problem]:
    """Services on an item's way that send no traces although others do: every trace has a hole there."""
    services = [each for each in rendered.pods if each.serves and service_settings(each.spec["containers"][0])]
    traced = [each for each in services if _COLLECTOR.intersection(told_values(each.spec["containers"][0]))]
    for pod in services if traced else ():
        if pod not in traced and pod.name not in _WITHOUT_WAY_OUT:
            yield Problem(pod.resource, "sends no traces, although others do: what an item does there is in none")


def _may_leave(rendered: Rendered, pod: Pod, port: int) -> bool:
    rules = rules_of(rendered, Way.OUT, pod)
    return rules is None or any(
        opens(rule, None, port)
        and any(is_outside(each) and not is_provided(each, "dns") for each in rule.get("to", ()))
        for rule in rules
    )
