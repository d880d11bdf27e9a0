"""Checks that whoever is told an address by its name may ask the cluster's DNS what it means."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from k8s.verify.calls import LOOPBACK, host_and_port
from k8s.verify.network import Way, policies_of
from k8s.verify.provided import PROVIDED
from k8s.verify.rendered import Problem, Rendered

DNS_PORT: Final = 53
_TOLD_BY: Final = ("_TARGET", "_URL", "_ENDPOINT", "_ISSUER")
"""How variables end whose values are addresses."""


def check_names(rendered: Rendered) -> Iterator[Problem]:
    """Every pod that is told an address by name, even one in a Secret, may ask for it wherever clusters have DNS."""
    for pod in rendered.pods:
        named = [each["name"] for container in pod.containers for each in container.get("env", ()) if _has_name(each)]
        if not named or not (policies := policies_of(rendered, Way.OUT, pod)):
            continue
        rules = [rule for policy in policies for rule in policy["spec"].get("egress", ())]
        told = ", ".join(dict.fromkeys(named))
        for place, peer in PROVIDED.dns.items():
            if closed := {"UDP", "TCP"} - _dns_protocols(rules, peer):
                over = " and ".join(sorted(closed))
                yield Problem(pod.resource, f"may not ask {place} over {over} for the name in {told}")


def _has_name(variable: Mapping[str, Any]) -> bool:
    """Whether a variable tells an address that has to be resolved; what stands in a Secret is taken for one."""
    if not variable["name"].endswith(_TOLD_BY):
        return False
    if "valueFrom" in variable:
        return True
    host, _ = host_and_port(str(variable.get("value", "")))
    return bool(host) and host not in LOOPBACK and not _is_literal(host)


def _is_literal(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _dns_protocols(rules: Sequence[Mapping[str, Any]], peer: Mapping[str, Any]) -> set[str]:
    """The protocols over which rules let out to port 53 of a peer."""
    ports = [port for rule in rules if peer in rule.get("to", ()) for port in rule.get("ports", ())]
    return {each.get("protocol", "TCP") for each in ports if each.get("port") == DNS_PORT}
