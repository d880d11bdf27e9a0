"""The code runners' manifests: cut off from the network, under gVisor, and with room for what a program may take.

What holds for every service, `make verify-k8s` checks.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from k8s.verify.pods import quantity
from k8s.verify.provided import K8S
from k8s.verify.rendered import selects
from k8s.verify.workloads import settings_of
from services.code_runner.service import FULL_NAME
from services.code_runner.settings import CodeRunnerSettings

FOLDER = K8S / "components/code-runner"
SCORING = {"app.kubernetes.io/name": "scoring"}


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return document


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = read("deployment.yaml")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [only] = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def settings(container: dict[str, Any]) -> CodeRunnerSettings:
    told = settings_of(container)
    assert isinstance(told, CodeRunnerSettings)
    return told


def lets_in(policy: Mapping[str, Any], peer: Mapping[str, str], port: int) -> bool:
    """Whether a policy lets a pod of its own namespace reach a TCP port of those that it selects."""
    for rule in policy["spec"]["ingress"]:
        peers, ports = rule.get("from"), rule.get("ports")
        is_peer = peers is None or any(
            not set(each) - {"podSelector"} and selects(each["podSelector"], peer) for each in peers
        )
        if is_peer and (ports is None or any(each.get("port", port) == port for each in ports)):
            return True
    return False


def test_every_file_is_used() -> None:
    component = read("kustomization.yaml")
    assert component["kind"] == "Component"
    named = {*component["resources"], *(each["path"] for each in component["patches"])}
    assert named | {"kustomization.yaml"} == {each.name for each in FOLDER.iterdir()}


def test_nothing_goes_out_and_only_scoring_comes_in(settings: CodeRunnerSettings) -> None:
    policy = read("network-policy.yaml")
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    # An absent list and an empty one both allow nothing; a rule without peers would allow everything.
    assert not policy["spec"].get("egress")
    assert lets_in(policy, SCORING, settings.port)
    assert not lets_in(policy, SCORING, settings.metrics_port)
    for other in ("generation", "evaluation", "code-runner", "prometheus"):
        assert not lets_in(policy, {"app.kubernetes.io/name": other}, settings.port)
    assert not lets_in(policy, {}, settings.port)


def test_the_runtime_class_that_pods_name_is_gvisors(pod: dict[str, Any]) -> None:
    assert read("runtime-class.yaml")["metadata"]["name"] == pod["runtimeClassName"]
    assert read("runtime-class.yaml")["handler"] == "runsc"


def test_a_pod_in_which_programs_cannot_be_contained_is_not_ready(container: dict[str, Any]) -> None:
    assert container["readinessProbe"]["grpc"]["service"] == FULL_NAME


def test_a_pod_has_room_for_what_a_program_may_take(
    pod: dict[str, Any], container: dict[str, Any], settings: CodeRunnerSettings
) -> None:
    assert settings.sandbox == "gvisor"
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts["program-files"] == str(settings.sandbox_root / "tmp")
    sizes = {each["name"]: quantity(each["emptyDir"]["sizeLimit"]) for each in pod["volumes"]}
    assert sizes["program-files"] > settings.sandbox_files_bytes
    limit = quantity(container["resources"]["limits"]["memory"])
    assert limit > 2 * settings.sandbox_memory_bytes + sizes["service-files"]
