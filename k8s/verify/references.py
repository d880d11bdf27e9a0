"""Checks of names: whatever a manifest refers to is in the overlay, or is brought by the cluster or its operator."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from k8s.prometheus_rules import rule_groups
from k8s.verify.provided import PROVIDED
from k8s.verify.rendered import Document, Pod, Problem, Rendered, called

_CLUSTER_WIDE = {
    "ClusterQueue", "CustomResourceDefinition", "GatewayClass", "Namespace", "PriorityClass", "ResourceFlavor",
    "RuntimeClass",
}  # fmt: skip
_CERTIFICATE_KEYS = ("tls.crt", "tls.key", "ca.crt")
_BUILT_IN_CLASSES = ("system-cluster-critical", "system-node-critical")


def check_references(rendered: Rendered) -> Iterator[Problem]:
    """Accounts, classes, claims, Secrets and ConfigMaps that pods name are there, with the keys that they use."""
    for pod in rendered.pods:
        for kind, name in _named(pod):
            known = rendered.find(kind, name) or name in PROVIDED.classes.get(kind, ()) or name in _BUILT_IN_CLASSES
            if not known:
                yield Problem(pod.resource, f"there is no {kind}/{name}")
        for kind, name, keys in _keyed(pod):
            there = keys_of(rendered, kind, name)
            if there is None:
                yield Problem(pod.resource, f"there is no {kind}/{name}")
            elif missing := set(keys) - set(there):
                yield Problem(pod.resource, f"{kind}/{name} has no key {', '.join(sorted(missing))}")


def check_issuers(rendered: Rendered) -> Iterator[Problem]:
    """Each certificate has an issuer that is there; pods wait for its Secret for ever otherwise."""
    for certificate in rendered.of_kind("Certificate"):
        issuer = certificate["spec"]["issuerRef"]
        kind, name = issuer.get("kind", "Issuer"), issuer["name"]
        if rendered.find(kind, name) is None:
            yield Problem(called(certificate), f"there is no {kind}/{name}")


def check_services(rendered: Rendered) -> Iterator[Problem]:
    """A workload's selector and a Service's select the pods that they are for; ports have names, and are there."""
    for owner in rendered.of_kind("Deployment", "StatefulSet", "DaemonSet"):
        if [called(each.owner) for each in rendered.selected(owner["spec"]["selector"])] != [called(owner)]:
            yield Problem(called(owner), "its selector does not select its pods alone")
    for pod in rendered.pods:
        for container in pod.containers:
            if any("name" not in port for port in container.get("ports", ())):
                yield Problem(pod.resource, f"container {container['name']} has a port without a name")
    for service in rendered.of_kind("Service"):
        found = rendered.selected({"matchLabels": service["spec"]["selector"]})
        if len(found) != 1:
            yield Problem(called(service), f"selects pods of {len(found)} workloads")
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            if "name" not in port or not isinstance(target, str):
                yield Problem(called(service), f"port {port['port']} and its target are not told by name")
            if any(each.port(target) is None for each in found):
                yield Problem(called(service), f"its pods have no port {target}")


def check_rules(rendered: Rendered) -> Iterator[Problem]:
    """The rules that Prometheus' operator is given are those of deploy/prometheus."""
    for document in rendered.of_kind("PrometheusRule"):
        if document["spec"]["groups"] != rule_groups():
            yield Problem(called(document), "differs from deploy/prometheus: run python -m k8s.prometheus_rules")


def check_monitors(rendered: Rendered) -> Iterator[Problem]:
    """What Prometheus is to scrape is a port that pods have."""
    for monitor in rendered.of_kind("PodMonitor"):
        found = rendered.selected(monitor["spec"]["selector"])
        if not found:
            yield Problem(called(monitor), "selects no pods")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for pod in found:
                if pod.port(endpoint["port"]) is None:
                    yield Problem(called(monitor), f"{pod.resource} has no port {endpoint['port']}")


def check_namespaces(rendered: Rendered) -> Iterator[Problem]:
    """Everything is in a namespace that the overlay has, but for what belongs to the cluster."""
    namespaces = {each["metadata"]["name"] for each in rendered.of_kind("Namespace")}
    for document in rendered.documents:
        found = document["metadata"].get("namespace")
        if document["kind"] not in _CLUSTER_WIDE and found not in namespaces:
            yield Problem(called(document), f"is in the namespace {found}, which is not there")


def _named(pod: Pod) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod.spec.get("serviceAccountName", "default")
    for field, kind in (("priorityClassName", "PriorityClass"), ("runtimeClassName", "RuntimeClass")):
        if field in pod.spec:
            yield kind, pod.spec[field]
    templates = {each["metadata"]["name"] for each in pod.owner["spec"].get("volumeClaimTemplates", ())}
    for volume in pod.spec.get("volumes", ()):
        if "persistentVolumeClaim" in volume and volume["name"] not in templates:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    mounted = {each["name"] for container in pod.containers for each in container.get("volumeMounts", ())}
    for name in mounted - templates - {each["name"] for each in pod.spec.get("volumes", ())}:
        yield "volume", name


def _keyed(pod: Pod) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield Secrets and ConfigMaps that a pod uses, with the keys that it names."""
    for container in pod.containers:
        for variable in container.get("env", ()):
            source = variable.get("valueFrom", {})
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if field in source:
                    yield kind, source[field]["name"], [source[field]["key"]]
        for source in container.get("envFrom", ()):
            for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if field in source:
                    yield kind, source[field]["name"], []
    for volume in pod.spec.get("volumes", ()):
        for source in (volume, *volume.get("projected", {}).get("sources", ())):
            if "secret" in source:
                told = source["secret"]
                yield "Secret", told.get("secretName", told.get("name")), _items(told)
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"], _items(source["configMap"])


def _items(source: Mapping[str, Any]) -> list[str]:
    return [each["key"] for each in source.get("items", ())]


def keys_of(rendered: Rendered, kind: str, name: str) -> Sequence[str] | None:
    """Return the keys of a Secret or ConfigMap; ``None`` if nobody brings it."""
    found: Document | None = rendered.find(kind, name)
    if found is not None:
        return [*found.get("data", {}), *found.get("stringData", {})]
    if kind == "Secret":
        if any(each["spec"]["secretName"] == name for each in rendered.of_kind("Certificate")):
            return _CERTIFICATE_KEYS
        return PROVIDED.secrets.get(name)
    return PROVIDED.config_maps.get(name)
