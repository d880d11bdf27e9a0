"""Checks of the way in from outside: where a gateway leads to, and by which certificates."""

import json
from collections.abc import Iterator

from k8s.verify.network import is_let_in_from
from k8s.verify.references import keys_of
from k8s.verify.rendered import Document, Problem, Rendered, called
from k8s.verify.workloads import service_settings, told_values
from services.runtime.security.roles import METHOD_ROLES

_SERVICES = {method.partition("/")[0] for method in METHOD_ROLES}
_HOSTS = "EVALFLEET_DASHBOARD_ALLOWED_HOSTS"


def check_routes(rendered: Rendered) -> Iterator[Problem]:
    """A gateway has its certificates, and leads to ports and proto services that there are."""
    for gateway in rendered.of_kind("Gateway"):
        for listener in gateway["spec"]["listeners"]:
            for secret in listener["tls"]["certificateRefs"]:
                if keys_of(rendered, "Secret", secret["name"]) is None:
                    yield Problem(called(gateway), f"there is no Secret/{secret['name']}")
    for route in rendered.of_kind("GRPCRoute", "HTTPRoute"):
        for text in (*_parent_problems(rendered, route), *_rule_problems(rendered, route)):
            yield Problem(called(route), text)
    for policy in rendered.of_kind("BackendTLSPolicy"):
        for text in _policy_problems(rendered, policy):
            yield Problem(called(policy), text)


def _policy_problems(rendered: Rendered, policy: Document) -> Iterator[str]:
    targets, validation = policy["spec"]["targetRefs"], policy["spec"]["validation"]
    for target in targets:
        service = rendered.find("Service", target["name"])
        ports = [] if service is None else [each["name"] for each in service["spec"]["ports"]]
        if target.get("sectionName") not in (None, *ports) or service is None:
            yield f"there is no port {target.get('sectionName')} of Service/{target['name']}"
    names = {
        name
        for certificate in rendered.of_kind("Certificate")
        if certificate["metadata"]["name"] in [each["name"] for each in targets]
        for name in certificate["spec"]["dnsNames"]
    }
    if validation["hostname"] not in names:
        yield f"no certificate of the service names {validation['hostname']}"
    for authority in validation["caCertificateRefs"]:
        # Gateway API promises ConfigMaps alone, and a Secret of an authority's certificate has its key as well.
        if authority["kind"] != "ConfigMap":
            yield f"takes its authority from a {authority['kind']}: use a ConfigMap"
        elif "ca.crt" not in (keys_of(rendered, "ConfigMap", authority["name"]) or ()):
            yield f"there is no ConfigMap/{authority['name']} with the key ca.crt"


def _parent_problems(rendered: Rendered, route: Document) -> Iterator[str]:
    for parent in route["spec"]["parentRefs"]:
        gateway = rendered.find("Gateway", parent["name"])
        listeners = [] if gateway is None else gateway["spec"]["listeners"]
        found = [each for each in listeners if each["name"] == parent.get("sectionName", each["name"])]
        if not found:
            yield f"there is no Gateway/{parent['name']} with the listener {parent.get('sectionName')}"
        for pod in rendered.pods if route["kind"] == "HTTPRoute" else ():
            told = told_values(pod.spec["containers"][0])
            for listener in found if _HOSTS in told else ():
                if listener["hostname"] not in json.loads(told[_HOSTS]):
                    yield f"{pod.resource} does not let browsers call it {listener['hostname']} ({_HOSTS})"


def _rule_problems(rendered: Rendered, route: Document) -> Iterator[str]:
    for rule in route["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            yield from _backend_problems(rendered, backend["name"], backend["port"])
        for match in rule.get("matches", ()):
            name = match.get("method", {}).get("service")
            if name is None:
                continue
            if name not in _SERVICES:
                yield f"{name} is no service of ours"
            elif any(each["name"] != _service_of(name) for each in rule["backendRefs"]):
                yield f"{name} is not served by {rule['backendRefs'][0]['name']}"


def _backend_problems(rendered: Rendered, name: str, port: int) -> Iterator[str]:
    service = rendered.find("Service", name)
    told = next((each for each in service["spec"]["ports"] if each["port"] == port), None) if service else None
    if service is None or told is None:
        yield f"there is no port {port} of Service/{name}"
        return
    for pod in rendered.selected({"matchLabels": service["spec"]["selector"]}):
        number = pod.port(told["targetPort"])
        if number is not None and not is_let_in_from(rendered, "gateway", pod, number):
            yield f"network policies do not let the gateway in to {pod.name}:{number}"
        settings = service_settings(pod.spec["containers"][0])
        policies = [
            target
            for policy in rendered.of_kind("BackendTLSPolicy")
            for target in policy["spec"]["targetRefs"]
            if target["name"] == name and target.get("sectionName", told["name"]) == told["name"]
        ]
        if settings is not None and settings.has_tls and len(policies) != 1:
            yield f"{name}:{port} speaks TLS, and has {len(policies) or 'no'} BackendTLSPolicy"


def _service_of(proto_service: str) -> str:
    """``evalfleet.safety.v1.SafetyService`` is served by ``safety``."""
    return proto_service.split(".")[1]
