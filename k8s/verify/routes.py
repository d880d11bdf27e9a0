"""Checks of the way in from outside: where a gateway leads to, and by which certificates."""

import json
from collections.abc import Iterator

from k8s.verify.references import keys_of
from k8s.verify.rendered import Document, Problem, Rendered, called
from k8s.verify.workloads import told_values
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
        names = {
            name
            for certificate in rendered.of_kind("Certificate")
            for target in policy["spec"]["targetRefs"]
            if certificate["metadata"]["name"] == target["name"]
            for name in certificate["spec"]["dnsNames"]
        }
        if (hostname := policy["spec"]["validation"]["hostname"]) not in names:
            yield Problem(called(policy), f"no certificate of the service names {hostname}")
        for authority in policy["spec"]["validation"]["caCertificateRefs"]:
            # Gateway API promises ConfigMaps alone, and a Secret of an authority's certificate has its key as well.
            if authority["kind"] != "ConfigMap":
                yield Problem(called(policy), f"takes its authority from a {authority['kind']}: use a ConfigMap")
            elif "ca.crt" not in (keys_of(rendered, "ConfigMap", authority["name"]) or ()):
                yield Problem(called(policy), f"there is no ConfigMap/{authority['name']} with the key ca.crt")


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
            service = rendered.find("Service", backend["name"])
            if service is None or backend["port"] not in [each["port"] for each in service["spec"]["ports"]]:
                yield f"there is no port {backend['port']} of Service/{backend['name']}"
        for match in rule.get("matches", ()):
            name = match.get("method", {}).get("service")
            if name is not None and name not in _SERVICES:
                yield f"{name} is no service of ours"
