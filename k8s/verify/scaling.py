"""Checks of what scales: one scaler for what is there, whose number nothing else takes back, and no outage sheds."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from k8s.verify.references import keys_of
from k8s.verify.rendered import Document, Problem, Rendered, called


class Address(NamedTuple):
    """A Service and a port of it."""

    service: str
    port: int


SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


def check_scalers(rendered: Rendered) -> Iterator[Problem]:
    """Each scaler has a workload to itself; KEDA's ask whom there is, and keep what runs while they learn nothing."""
    targets = [target_of(each) for each in rendered.of_kind(*SCALERS)]
    for scaler, target in zip(rendered.of_kind(*SCALERS), targets, strict=True):
        workload = rendered.find(*target)
        if workload is None:
            yield Problem(called(scaler), f"there is no {'/'.join(target)} to scale")
        elif "replicas" in workload["spec"]:
            yield Problem(called(workload), "says replicas, which each apply would take back from its scaler")
        if targets.count(target) > 1:
            yield Problem(called(scaler), f"{'/'.join(target)} has another scaler, too")
        if scaler["kind"] == "ScaledObject":
            yield from (Problem(called(scaler), text) for text in _outage_problems(scaler["spec"]))
            yield from (Problem(called(scaler), text) for text in _trigger_problems(rendered, scaler["spec"]))


def target_of(scaler: Document) -> tuple[str, str]:
    """Return kind and name of what a scaler scales."""
    reference = scaler["spec"]["scaleTargetRef"]
    return reference.get("kind", "Deployment"), reference["name"]


def address_of(trigger: Mapping[str, Any]) -> Address | None:
    """Return whom a trigger of KEDA asks; ``None``: no scaler of ours."""
    host, _, port = trigger["metadata"].get("scalerAddress", "").partition(":")
    # KEDA is in a namespace of its own, and so tells ours: evaluation.evalfleet.svc.
    return Address(host.partition(".")[0], int(port)) if host else None


def _outage_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    if spec.get("fallback", {}).get("behavior") != "currentReplicas":
        yield "does not keep its replicas while its triggers fail (fallback)"
    for trigger in spec["triggers"]:
        if trigger["type"] == "prometheus" and trigger["metadata"].get("ignoreNullValues") != "false":
            yield f"takes a vanished series for no load (ignoreNullValues of {trigger.get('name', 'a trigger')})"


def _trigger_problems(rendered: Rendered, spec: Mapping[str, Any]) -> Iterator[str]:
    for trigger in spec["triggers"]:
        if (address := address_of(trigger)) is not None:
            service = rendered.find("Service", address.service)
            if service is None or address.port not in [each["port"] for each in service["spec"]["ports"]]:
                yield f"there is no port {address.port} of Service/{address.service}"
        name = trigger.get("authenticationRef", {}).get("name")
        authentication = rendered.find("TriggerAuthentication", name) if name else None
        if name and authentication is None:
            yield f"there is no TriggerAuthentication/{name}"
        for secret in authentication["spec"].get("secretTargetRef", ()) if authentication else ():
            if secret["key"] not in (keys_of(rendered, "Secret", secret["name"]) or ()):
                yield f"there is no key {secret['key']} of Secret/{secret['name']}"
