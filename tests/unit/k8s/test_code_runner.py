"""The code runners' manifests: valid, restricted, cut off from the network, and told what the service reads."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.code_runner.service import FULL_NAME
from services.code_runner.settings import CodeRunnerSettings
from services.runtime.settings import ENV_PREFIX
from services.scoring.settings import ScoringSettings

FOLDER = Path(__file__).resolve().parents[3] / "k8s/components/code-runner"
KUBERNETES = "1.33"
"""The oldest version that is checked against; its schemas know all that is used."""
SCORING = {"app.kubernetes.io/name": "scoring"}
Labels = Mapping[str, str]


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return document


def resources() -> dict[str, dict[str, Any]]:
    return {name: read(name) for name in read("kustomization.yaml")["resources"]}


@pytest.fixture(scope="module")
def by_kind() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in resources().values()}


@pytest.fixture
def pod(by_kind: dict[str, dict[str, Any]]) -> dict[str, Any]:
    template: dict[str, Any] = by_kind["Deployment"]["spec"]["template"]
    return template


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [only] = pod["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def settings(container: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> CodeRunnerSettings:
    fields = {f"{ENV_PREFIX}{field}".upper() for field in CodeRunnerSettings.model_fields}
    for variable in container["env"]:
        assert variable["name"] in fields
        monkeypatch.setenv(variable["name"], variable["value"])
    return CodeRunnerSettings()


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector of equalities selects something with these labels; an empty one selects everything."""
    assert set(selector) <= {"matchLabels"}
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def lets_in(policy: Mapping[str, Any], peer: Labels, port: int) -> bool:
    """Whether a policy lets a pod of its own namespace reach a TCP port of those that it selects."""
    for rule in policy["spec"]["ingress"]:
        peers, ports = rule.get("from"), rule.get("ports")
        is_peer = peers is None or any(
            not set(each) - {"podSelector"} and selects(each["podSelector"], peer) for each in peers
        )
        if is_peer and (ports is None or any(each.get("port", port) == port for each in ports)):
            return True
    return False


@pytest.mark.parametrize("name", sorted(resources()))
def test_a_manifest_is_what_kubernetes_takes(name: str) -> None:
    kubernetes_validate.validate(resources()[name], KUBERNETES, strict=True)


def test_every_file_is_used() -> None:
    component = read("kustomization.yaml")
    assert component["kind"] == "Component"
    named = {*component["resources"], *(each["path"] for each in component["patches"])}
    assert named | {"kustomization.yaml"} == {each.name for each in FOLDER.iterdir()}


def test_whatever_selects_pods_selects_these(by_kind: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"]
    selectors = [
        by_kind["Deployment"]["spec"]["selector"],
        {"matchLabels": by_kind["Service"]["spec"]["selector"]},
        by_kind["PodDisruptionBudget"]["spec"]["selector"],
        by_kind["NetworkPolicy"]["spec"]["podSelector"],
        *(each["labelSelector"] for each in pod["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selects(selector, labels)
        assert not selects(selector, SCORING)


def test_nothing_goes_out_and_only_scoring_comes_in(
    by_kind: dict[str, dict[str, Any]], settings: CodeRunnerSettings
) -> None:
    policy = by_kind["NetworkPolicy"]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    # An absent list and an empty one both allow nothing; a rule without peers would allow everything.
    assert not policy["spec"].get("egress")
    assert lets_in(policy, SCORING, settings.port)
    assert not lets_in(policy, SCORING, settings.metrics_port)
    for other in ("generation", "evaluation", "code-runner", "prometheus"):
        assert not lets_in(policy, {"app.kubernetes.io/name": other}, settings.port)
    assert not lets_in(policy, {}, settings.port)


def test_the_runtime_class_that_pods_name_is_gvisors(by_kind: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    assert by_kind["RuntimeClass"]["metadata"]["name"] == pod["spec"]["runtimeClassName"]
    assert by_kind["RuntimeClass"]["handler"] == "runsc"


def test_a_pod_is_within_the_restricted_profile(pod: dict[str, Any], container: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"} & set(spec)
    assert {next(iter(set(each) - {"name"})) for each in spec["volumes"]} == {"emptyDir"}
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(set(each) == {"name", "containerPort"} for each in container["ports"])


def test_a_pod_has_no_token_and_names_its_image_exactly(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["spec"]["automountServiceAccountToken"] is False
    _, _, version = container["image"].partition(":")
    assert version not in ("", "latest")


def test_the_service_is_told_what_the_manifests_say(
    by_kind: dict[str, dict[str, Any]], pod: dict[str, Any], container: dict[str, Any], settings: CodeRunnerSettings
) -> None:
    assert settings.sandbox == "gvisor"
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
    assert container["readinessProbe"]["grpc"] == {"port": settings.port, "service": FULL_NAME}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts["program-files"] == str(settings.sandbox_root / "tmp")
    assert pod["spec"]["terminationGracePeriodSeconds"] > settings.drain_delay_seconds + settings.drain_grace_seconds
    sizes = {each["name"]: bytes_of(each["emptyDir"]["sizeLimit"]) for each in pod["spec"]["volumes"]}
    assert sizes["program-files"] > settings.sandbox_files_bytes
    limit = bytes_of(container["resources"]["limits"]["memory"])
    assert limit > 2 * settings.sandbox_memory_bytes + sizes["service-files"]
    [service_port] = by_kind["Service"]["spec"]["ports"]
    assert service_port["targetPort"] == "grpc"


def test_the_scoring_service_finds_the_pods(by_kind: dict[str, dict[str, Any]]) -> None:
    patch = read("scoring-patch.yaml")
    [target] = [each["target"] for each in read("kustomization.yaml")["patches"]]
    assert (target["kind"], target["name"]) == (patch["kind"], patch["metadata"]["name"])
    [container] = patch["spec"]["template"]["spec"]["containers"]
    [variable] = container["env"]
    assert variable["name"].removeprefix(ENV_PREFIX).lower() in ScoringSettings.model_fields
    service = by_kind["Service"]
    [port] = service["spec"]["ports"]
    # Without an address of its own, so that its name stands for all pods.
    assert service["spec"]["clusterIP"] == "None"
    assert variable["value"] == f"dns:///{service['metadata']['name']}:{port['port']}"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders it")
def test_an_overlay_takes_the_component(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "code-runner")
    labels = {"matchLabels": SCORING}
    template = {"metadata": {"labels": SCORING}, "spec": {"containers": [{"name": "scoring", "image": "scoring:1"}]}}
    scoring = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "scoring"},
        "spec": {"selector": labels, "template": template},
    }
    (tmp_path / "scoring.yaml").write_text(yaml.safe_dump(scoring))
    overlay = {"namespace": "fleet", "resources": ["scoring.yaml"], "components": ["code-runner"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    rendered = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=True, timeout=60
    )
    documents = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(rendered.stdout)}
    assert len(documents) == len(resources()) + 1
    assert dict(variables(documents["Deployment", "scoring"]))["EVALFLEET_CODE_RUNNER_TARGET"]
    for (kind, _), document in documents.items():
        assert document["metadata"].get("namespace") == (None if kind == "RuntimeClass" else "fleet")


def variables(deployment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for each in container.get("env", ()):
            yield each["name"], each["value"]


def bytes_of(quantity: str) -> int:
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    return int(quantity[:-2]) * units[quantity[-2:]]
