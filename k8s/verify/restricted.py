"""The Pod Security profile «restricted» (Kubernetes 1.34 and newer), and what we ask for beyond it."""

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.verify.rendered import Pod, Problem, Rendered

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip
_PROFILES = ("RuntimeDefault", "Localhost")
_SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_LEVELS = ("enforce", "audit", "warn")


def check_restricted(rendered: Rendered) -> Iterator[Problem]:
    """Every pod is within the profile, which its namespace enforces."""
    for namespace in rendered.of_kind("Namespace"):
        labels = namespace["metadata"].get("labels", {})
        for level in _LEVELS:
            if labels.get(f"pod-security.kubernetes.io/{level}") != "restricted":
                yield Problem(f"Namespace/{namespace['metadata']['name']}", f"does not {level} «restricted»")
    for pod in rendered.pods:
        for text in (
            *_pod_problems(pod),
            *(text for each in pod.containers for text in _container_problems(pod, each)),
        ):
            yield Problem(pod.resource, text)


def check_hardened(rendered: Rendered) -> Iterator[Problem]:
    """Beyond the profile: a root that is read-only, no token of the API server, no addresses of all services."""
    for pod in rendered.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield Problem(pod.resource, "mounts the token of its service account")
        if pod.spec.get("enableServiceLinks") is not False:
            yield Problem(pod.resource, "gets the addresses of all services as variables (enableServiceLinks)")
        for container in pod.containers:
            if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                yield Problem(pod.resource, f"container {container['name']} can write to its root")
    for account in rendered.of_kind("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield Problem(f"ServiceAccount/{account['metadata']['name']}", "its token is mounted")


def check_secrets(rendered: Rendered) -> Iterator[Problem]:
    """No secret is in a command or its arguments, which other processes of the node can list."""
    for pod in rendered.pods:
        for container in pod.containers:
            words = " ".join((*container.get("command", ()), *container.get("args", ())))
            for name in _secret_variables(container):
                if f"$({name})" in words:
                    yield Problem(pod.resource, f"container {container['name']} has the secret {name} in its arguments")


def _secret_variables(container: Mapping[str, Any]) -> list[str]:
    """The variables whose values come from a Secret, or have an earlier one in them whose value does."""
    found: list[str] = []
    for each in container.get("env", ()):
        is_made_of_one = any(f"$({name})" in str(each.get("value", "")) for name in found)
        if is_made_of_one or "secretKeyRef" in each.get("valueFrom", {}):
            found.append(each["name"])
    return found


def _pod_problems(pod: Pod) -> Iterator[str]:
    spec, context = pod.spec, pod.spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is on"
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed: {', '.join(sorted(kinds - _VOLUMES))}"
    for sysctl in context.get("sysctls", ()):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']} is not allowed"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "is a host process"


def _container_problems(pod: Pod, container: Mapping[str, Any]) -> Iterator[str]:
    name, own, shared = container["name"], container.get("securityContext", {}), pod.spec.get("securityContext", {})
    if own.get("privileged"):
        yield f"container {name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"container {name} may gain privileges"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"container {name} keeps capabilities"
    if not own.get("runAsNonRoot", shared.get("runAsNonRoot")):
        yield f"container {name} may run as root"
    if own.get("runAsUser", shared.get("runAsUser")) == 0:
        yield f"container {name} runs as root"
    if own.get("seccompProfile", shared.get("seccompProfile", {})).get("type") not in _PROFILES:
        yield f"container {name} has no seccomp profile"
    selinux = own.get("seLinuxOptions", shared.get("seLinuxOptions", {}))
    if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"container {name} has SELinux options that are not allowed"
    if own.get("procMount", "Default") != "Default":
        yield f"container {name} sees all of /proc"
    if own.get("appArmorProfile", shared.get("appArmorProfile", {})).get("type") == "Unconfined":
        yield f"container {name} is not confined by AppArmor"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield f"container {name} takes a port of its node"
    if any("host" in handler for handler in _handlers(container)):
        yield f"container {name} has a probe or hook of another host"


def _handlers(container: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    probes = [container.get(each, {}) for each in ("startupProbe", "readinessProbe", "livenessProbe")]
    for each in (*probes, *container.get("lifecycle", {}).values()):
        yield from (each[kind] for kind in ("httpGet", "tcpSocket") if kind in each)
