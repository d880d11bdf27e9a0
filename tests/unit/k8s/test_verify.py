"""`make verify-k8s` on the production overlay: nothing to say of it as it is, and of each planted fault what is wrong."""

import copy
from typing import Any, NamedTuple

import pytest

from k8s.verify.command import CHECKS, SCHEMA_RULE, main
from k8s.verify.kubectl import OVERLAYS, KubectlError, find_kubectl, render
from k8s.verify.rendered import Finding, Rendered
from k8s.verify.schemas import VERSIONS, Schemas, find_crds

GONE = object()
"""Instead of a value: the field is taken away."""
PODS = "spec.template.spec"
CONTAINER = f"{PODS}.containers.0"


class Fault(NamedTuple):
    """One change to a rendered resource, and what must be said of it.

    Attributes:
        rule: that is broken.
        resource: ``kind/name``.
        path: keys and indices with dots; ``+`` at the end adds to a list.
        value: what is put there.
        words: of the finding.
        of: the resource that the finding is about, if it is another one.
    """

    rule: str
    resource: str
    path: str
    value: Any
    words: str
    of: str = ""


EVERYBODY = {"ports": [{"protocol": "TCP", "port": 8101}]}
NOBODY = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "nobody"}}}
ROUND_TABLE = {"matchLabels": {"app.kubernetes.io/part-of": "evalfleet"}}

FAULTS = {
    "an unknown field": Fault(SCHEMA_RULE, "Deployment/safety", "spec.replica", 2, "replica"),
    "a word for a number": Fault(SCHEMA_RULE, "Deployment/safety", "spec.replicas", "two", "'two' is not of type"),
    "a kind that no version has": Fault(SCHEMA_RULE, "Service/safety", "apiVersion", "v2", "has no v2 Service"),
    "an unknown field of a custom resource": Fault(SCHEMA_RULE, "PodMonitor/evalfleet", "spec.selctor", {}, "selctor"),
    "a selector of nothing": Fault(
        "services", "Deployment/safety", "spec.selector.matchLabels", {"app": "safe"}, "does not select its pods"
    ),
    "a selector of more": Fault("services", "Deployment/safety", "spec.selector", ROUND_TABLE, "its pods alone"),
    "a service of nothing": Fault("services", "Service/safety", "spec.selector", {"app": "safe"}, "pods of 0 workloads"),
    "a target that is a number": Fault("services", "Service/safety", "spec.ports.0.targetPort", 8102, "by name"),
    "a target that is not there": Fault("services", "Service/safety", "spec.ports.0.targetPort", "rpc", "no port rpc"),
    "a container's port without a name": Fault(
        "services", "Deployment/safety", f"{CONTAINER}.ports.0.name", GONE, "port without a name"
    ),
    "no readiness probe": Fault(
        "probes", "Deployment/scoring", f"{CONTAINER}.readinessProbe", GONE, "no readinessProbe"
    ),
    "no startup probe": Fault("probes", "Deployment/valkey", f"{CONTAINER}.startupProbe", GONE, "no startupProbe"),
    "a probe at another port": Fault(
        "probes", "Deployment/scoring", f"{CONTAINER}.readinessProbe.grpc.port", 9999, "asks port 9999"
    ),
    "no limit of memory": Fault(
        "resources", "Deployment/safety", f"{CONTAINER}.resources.limits.memory", GONE, "lacks limits.memory"
    ),
    "no request": Fault("resources", "Deployment/safety", f"{CONTAINER}.resources.requests", GONE, "requests.cpu"),
    "a request above the limit": Fault(
        "resources", "Deployment/safety", f"{CONTAINER}.resources.requests.memory", "999Gi", "more memory than its limit"
    ),
    "latest": Fault("images", "Deployment/triton", f"{CONTAINER}.image", "evalfleet/triton-cpu:latest", "no version"),
    "no tag": Fault("images", "Deployment/triton", f"{CONTAINER}.image", "registry:5000/evalfleet/triton", "no version"),
    "a volume in memory without a bound": Fault(
        "memory-volumes", "Deployment/triton", f"{PODS}.volumes.0.emptyDir", {"medium": "Memory"}, "without sizeLimit"
    ),
    "a volume as large as the container": Fault(
        "memory-volumes", "Deployment/triton", f"{PODS}.volumes.0.emptyDir.sizeLimit", "64Gi", "fill its limit"
    ),
    "Triton without shared memory": Fault(
        "memory-volumes", "Deployment/triton", f"{CONTAINER}.volumeMounts.2.mountPath", "/elsewhere", "at /dev/shm"
    ),
    "root": Fault("restricted", "Deployment/safety", f"{PODS}.securityContext.runAsUser", 0, "runs as root"),
    "no word against root": Fault(
        "restricted", "Deployment/safety", f"{PODS}.securityContext.runAsNonRoot", GONE, "may run as root"
    ),
    "no seccomp": Fault(
        "restricted", "Deployment/safety", f"{PODS}.securityContext.seccompProfile", GONE, "no seccomp profile"
    ),
    "privileges": Fault(
        "restricted", "Deployment/safety", f"{CONTAINER}.securityContext.allowPrivilegeEscalation", True, "privileges"
    ),
    "capabilities": Fault(
        "restricted", "Deployment/safety", f"{CONTAINER}.securityContext.capabilities.add", ["SYS_PTRACE"], "capabilities"
    ),
    "the node's files": Fault(
        "restricted", "Deployment/safety", f"{PODS}.volumes.+", {"name": "x", "hostPath": {"path": "/"}}, "hostPath"
    ),
    "the node's network": Fault("restricted", "Deployment/safety", f"{PODS}.hostNetwork", True, "hostNetwork is on"),
    "the node's port": Fault("restricted", "Deployment/safety", f"{CONTAINER}.ports.0.hostPort", 80, "port of its node"),
    "a namespace that allows more": Fault(
        "restricted",
        "Namespace/evalfleet",
        "metadata.labels",
        {"pod-security.kubernetes.io/enforce": "baseline"},
        "does not enforce",
    ),
    "a root that can be written to": Fault(
        "hardened", "CronJob/batch-run", "spec.jobTemplate.spec.template.spec.containers.0.securityContext", {}, "its root"
    ),
    "a token of the API server": Fault(
        "hardened", "Deployment/safety", f"{PODS}.automountServiceAccountToken", True, "mounts the token"
    ),
    "a token of the account": Fault(
        "hardened", "ServiceAccount/safety", "automountServiceAccountToken", True, "its token is mounted"
    ),
    "no disruption budget": Fault(
        "disruption-budgets",
        "PodDisruptionBudget/safety",
        "spec.selector.matchLabels",
        {"app": "safe"},
        "no disruption budget",
        of="Deployment/safety",
    ),
    "a budget of sick pods": Fault(
        "disruption-budgets",
        "PodDisruptionBudget/safety",
        "spec.unhealthyPodEvictionPolicy",
        "IfHealthyBudget",
        "hold up the drain",
    ),
    "a budget of nothing": Fault(
        "disruption-budgets", "PodDisruptionBudget/safety", "spec.maxUnavailable", 0, "cannot be emptied"
    ),
    "no spread": Fault(
        "spread", "Deployment/safety", f"{PODS}.topologySpreadConstraints", [], "not spread over kubernetes.io/hostname"
    ),
    "spread among others": Fault(
        "spread", "Deployment/safety", f"{PODS}.topologySpreadConstraints.0.labelSelector", ROUND_TABLE, "among "
    ),
    "too little time to drain": Fault(
        "grace", "Deployment/safety", f"{PODS}.terminationGracePeriodSeconds", 30, "preStop 5 + drain 30.5"
    ),
    "a longer drain": Fault(
        "grace", "Deployment/triton", f"{CONTAINER}.env.+", {"name": "EVALFLEET_EXIT_TIMEOUT_SECONDS", "value": "90"}, "make"
    ),
    "no pause before the drain": Fault("grace", "Deployment/safety", f"{CONTAINER}.lifecycle", GONE, "no preStop sleep"),
    "a second process on one file": Fault("replicas", "Deployment/generation", "spec.replicas", 2, "shares"),
    "two at once in a rollout": Fault(
        "replicas", "Deployment/generation", "spec.strategy", {"type": "RollingUpdate"}, "belongs to one process"
    ),
    "a misspelled variable": Fault(
        "variables", "Deployment/safety", f"{CONTAINER}.env.+", {"name": "EVALFLEET_PROT", "value": "1"}, "EVALFLEET_PROT"
    ),
    "another service's variable": Fault(
        "variables",
        "Deployment/safety",
        f"{CONTAINER}.env.+",
        {"name": "EVALFLEET_AUTO_ENGINE", "value": "vllm"},
        "services.safety reads no variable",
    ),
    "a value that the service refuses": Fault(
        "variables",
        "Deployment/generation",
        f"{CONTAINER}.env.+",
        {"name": "EVALFLEET_MAX_NUM_SEQS", "value": "0"},
        "MAX_NUM_SEQS is refused",
    ),
    "a variable told twice": Fault(
        "variables", "Deployment/safety", f"{CONTAINER}.env.+", {"name": "EVALFLEET_PORT", "value": "8102"}, "told twice"
    ),
    "a module that is not there": Fault(
        "variables", "Job/migrate-evaluation", f"{CONTAINER}.args", ["python", "-m", "services.evaluation.up"], "not there"
    ),
    "an address of nobody": Fault(
        "targets",
        "Deployment/scoring",
        f"{CONTAINER}.env.+",
        {"name": "EVALFLEET_GENERATION_TARGET", "value": "dns:///generator:8101"},
        "no Service generator",
    ),
    "an address with another port": Fault(
        "targets",
        "Deployment/scoring",
        f"{CONTAINER}.env.+",
        {"name": "EVALFLEET_GENERATION_TARGET", "value": "dns:///generation:8102"},
        "Service/generation has no port 8102",
    ),
    "an address that is not told": Fault(
        "targets",
        "Deployment/scoring",
        f"{CONTAINER}.env.+",
        {"name": "EVALFLEET_GENERATION_TARGET", "value": ""},
        "is not told where EVALFLEET_GENERATION_TARGET is",
    ),
    "a cache that is not there": Fault(
        "targets",
        "Deployment/safety",
        f"{CONTAINER}.env.+",
        {"name": "EVALFLEET_VERDICT_CACHE_URL", "value": "redis://redis:6379/0"},
        "no Service redis",
    ),
    "a way out that is closed": Fault(
        "targets", "NetworkPolicy/scoring", "spec.egress", [], "out to generation", of="Deployment/scoring"
    ),
    "a way in that is closed": Fault(
        "targets", "NetworkPolicy/generation", "spec.ingress", [], "in to generation", of="Deployment/scoring"
    ),
    "a peer that is not there": Fault(
        "network-policies", "NetworkPolicy/safety", "spec.ingress.0.from.+", NOBODY, "no such peer"
    ),
    "a namespace that nobody knows": Fault(
        "network-policies",
        "NetworkPolicy/safety",
        "spec.ingress.0.from.+",
        {"namespaceSelector": {"matchLabels": {"team": "a"}}},
        "no such peer",
    ),
    "the whole Internet": Fault(
        "network-policies", "NetworkPolicy/safety", "spec.egress.0.to.+", {"ipBlock": {"cidr": "0.0.0.0/0"}}, "no such peer"
    ),
    "a rule about everybody": Fault(
        "network-policies", "NetworkPolicy/generation", "spec.ingress.+", EVERYBODY, "about everybody"
    ),
    "a port that the peer has not": Fault(
        "network-policies", "NetworkPolicy/safety", "spec.egress.1.ports.0.port", 8003, "opens port 8003"
    ),
    "a port that the pod has not": Fault(
        "network-policies", "NetworkPolicy/safety", "spec.ingress.0.ports.0.port", 8103, "opens port 8103"
    ),
    "all ports": Fault("network-policies", "NetworkPolicy/safety", "spec.ingress.0.ports", GONE, "opens all ports"),
    "a policy of nobody": Fault(
        "network-policies", "NetworkPolicy/safety", "spec.podSelector", {"matchLabels": {"app": "safe"}}, "selects no pods"
    ),
    "an account that is not there": Fault(
        "references", "Deployment/safety", f"{PODS}.serviceAccountName", "saftey", "no ServiceAccount/saftey"
    ),
    "a class that is not there": Fault(
        "references", "Deployment/safety", f"{PODS}.priorityClassName", "urgent", "no PriorityClass/urgent"
    ),
    "a claim that is not there": Fault(
        "references", "PersistentVolumeClaim/generation-state", "metadata.name", "state", "no PersistentVolumeClaim",
        of="Deployment/generation",
    ),
    "a Secret that nobody makes": Fault(
        "references", "Deployment/dashboard", f"{PODS}.volumes.1.secret.secretName", "tokens", "no Secret/tokens"
    ),
    "a key that a Secret has not": Fault(
        "references",
        "Job/migrate-evaluation",
        f"{CONTAINER}.env.0.valueFrom.secretKeyRef.key",
        "url",
        "Secret/evalfleet-database has no key url",
    ),
    "a volume that is not there": Fault(
        "references", "Deployment/safety", f"{CONTAINER}.volumeMounts.+", {"name": "x", "mountPath": "/x"}, "no volume/x"
    ),
    "a file that is not mounted": Fault(
        "paths",
        "Deployment/safety",
        f"{CONTAINER}.env.+",
        {"name": "EVALFLEET_GUARDS_FILE", "value": "/etc/evalfleet/guards.yaml"},
        "no volume is mounted",
    ),
    "state that cannot be written": Fault(
        "paths", "Deployment/safety", f"{CONTAINER}.volumeMounts.0.readOnly", True, "read-only"
    ),
    "a metrics port that is not there": Fault(
        "monitors", "PodMonitor/evalfleet", "spec.podMetricsEndpoints.0.port", "http", "has no port http"
    ),
    "another namespace": Fault("namespaces", "Service/safety", "metadata.namespace", "default", "is in the namespace"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prod() -> Rendered:
    """The production overlay; tests that need it are skipped where there is no kubectl."""
    try:
        return render(OVERLAYS / "prod", find_kubectl())
    except KubectlError as error:
        if "there is no kubectl" in str(error) or "too old" in str(error):
            pytest.skip(str(error))
        raise


def plant(rendered: Rendered, fault: Fault) -> Rendered:
    """Return a copy of an overlay with a fault in it."""
    documents = copy.deepcopy(rendered.documents)
    [place] = [each for each in documents if fault.resource == f"{each['kind']}/{each['metadata']['name']}"]
    *way, last = (int(step) if step.isdigit() else step for step in fault.path.split("."))
    at: Any = place
    for step in way:
        at = at[step]
    if last == "+":
        at.append(fault.value)
    elif fault.value is GONE:
        del at[last]
    else:
        at[last] = fault.value
    return Rendered("prod", documents)


def said(rendered: Rendered, rule: str) -> list[Finding]:
    check = Schemas(VERSIONS[:1], find_crds()).check if rule == SCHEMA_RULE else CHECKS[rule]
    return [Finding(rendered.overlay, rule, each) for each in check(rendered)]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(prod: Rendered, name: str) -> None:
    fault = FAULTS[name]
    if fault.resource.startswith("PodMonitor") and fault.rule == SCHEMA_RULE and find_crds() is None:
        pytest.skip("the definitions of custom resources are not there; set EVALFLEET_DATA_DIR")
    found = said(plant(prod, fault), fault.rule)
    about = [each for each in found if each.problem.resource == (fault.of or fault.resource)]
    assert any(fault.words in each.problem.text for each in about), [str(each) for each in found]


@pytest.mark.parametrize("rule", [SCHEMA_RULE, *CHECKS])
def test_each_rule_has_a_planted_fault_and_nothing_against_production(prod: Rendered, rule: str) -> None:
    assert rule in {each.rule for each in FAULTS.values()}
    assert not said(prod, rule)


def test_whoever_misspells_an_overlay_is_told(capsys: pytest.CaptureFixture[str], prod: Rendered) -> None:
    assert main(["staging"]) == 2
    assert "there is no overlay staging" in capsys.readouterr().err


def test_the_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rules"]) == 0
    assert all(rule in capsys.readouterr().out for rule in ["spread"])
