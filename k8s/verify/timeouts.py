"""Checks that nothing on a call's way ends it by a clock of its own."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from k8s.verify.rendered import Document, Problem, Rendered, called

ENVOY: Final = "envoy"
"""The class of gateways whose timeouts are known here: Envoy Gateway's."""
_UNBOUNDED: Final = ("requestTimeout", "maxStreamDuration")
"""Fields of Envoy's timeouts that have to be 0s; the first is 15 s where nobody sets it."""


def check_timeouts(rendered: Rendered) -> Iterator[Problem]:
    """Envoy's gateways leave it to callers how long a call takes; policies of timeouts are about routes that exist."""
    for policy in rendered.of_kind("BackendTrafficPolicy"):
        for target in policy["spec"]["targetRefs"]:
            if rendered.find(target["kind"], target["name"]) is None:
                yield Problem(called(policy), f"there is no {target['kind']}/{target['name']}")
    for route in rendered.of_kind("GRPCRoute"):
        if _is_envoys(rendered, route):
            told = _timeouts(rendered, route)
            for field in _UNBOUNDED:
                if told.get(field) != "0s":
                    yield Problem(called(route), f"calls are cut off: no BackendTrafficPolicy says {field}: 0s")


def _is_envoys(rendered: Rendered, route: Document) -> bool:
    gateways = [rendered.find("Gateway", each["name"]) for each in route["spec"]["parentRefs"]]
    return any(each is not None and each["spec"]["gatewayClassName"] == ENVOY for each in gateways)


def _timeouts(rendered: Rendered, route: Document) -> Mapping[str, Any]:
    told: dict[str, Any] = {}
    for policy in rendered.of_kind("BackendTrafficPolicy"):
        if any(called(route) == f"{each['kind']}/{each['name']}" for each in policy["spec"]["targetRefs"]):
            told |= policy["spec"].get("timeout", {}).get("http", {})
    return told
