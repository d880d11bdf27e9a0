"""Checks of who trusts whom: no port is open to strangers, and callers have a certificate by which they are known."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from k8s.verify.calls import Call, calls
from k8s.verify.rendered import Pod, Problem, Rendered
from k8s.verify.workloads import service_settings, told_values
from services.runtime.error_types import StartupError
from services.runtime.security.checks import check_security
from services.runtime.security.identity import Peers


def check_ports(rendered: Rendered) -> Iterator[Problem]:
    """Each service would start: it has TLS, or is told that plaintext is meant, and its settings fit together."""
    for pod in rendered.pods:
        for container in pod.spec["containers"]:
            settings = service_settings(container)
            if settings is None or not pod.serves:
                continue
            try:
                check_security(settings, settings.host)
                Peers(settings.tls_peers)
            except StartupError as error:
                yield Problem(pod.resource, error.message)


def check_trust(rendered: Rendered) -> Iterator[Problem]:
    """Whoever calls a service with mTLS has a certificate that it knows, and finds the name that it calls in that."""
    for call in calls(rendered):
        for listener, _ in call.listeners(rendered):
            for container in listener.spec["containers"]:
                settings = service_settings(container)
                if settings is not None and settings.tls_ca is not None:
                    for text in _distrust(rendered, call, listener, settings.tls_peers):
                        yield Problem(call.caller.resource, f"{call.told}: {text}")


def _distrust(rendered: Rendered, call: Call, listener: Pod, peers: str) -> Iterator[str]:
    if call.host not in _certificate_names(rendered, listener, listener.spec["containers"][0]):
        yield f"the certificate of {listener.name} does not name {call.host}"
    known = {entry.partition("=")[0].strip() for entry in peers.split(",")}
    own = _certificate_names(rendered, call.caller, call.container)
    if not own:
        yield f"{listener.name} asks for a certificate, and it has none"
    elif not own & known:
        yield f"{listener.name} does not know it (EVALFLEET_TLS_PEERS)"


def _certificate_names(rendered: Rendered, pod: Pod, container: Mapping[str, Any]) -> set[str]:
    """The names in the certificate that a container is told of; empty if it has none."""
    folder = str(PurePosixPath(told_values(container).get("EVALFLEET_TLS_CERT", "")).parent)
    mounted = {each["mountPath"]: each["name"] for each in container.get("volumeMounts", ())}
    volumes = {each["name"]: each.get("secret", {}).get("secretName") for each in pod.spec.get("volumes", ())}
    secret = volumes.get(mounted.get(folder, ""))
    found = [each["spec"] for each in rendered.of_kind("Certificate") if each["spec"]["secretName"] == secret]
    return {name for each in found for name in each.get("dnsNames", ())}
