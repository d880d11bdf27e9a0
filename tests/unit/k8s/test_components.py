"""Every component goes with the whole fleet, and with as little else as it says that it needs."""

import os
import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from deploy.docker.image_contents import IMAGES, ON_DEMAND, PREFIX
from k8s.prometheus_rules import rule_groups
from k8s.verify.command import findings
from k8s.verify.kubectl import OVERLAYS, KubectlError, find_kubectl, render
from k8s.verify.pods import quantity
from k8s.verify.provided import K8S, PROVIDED
from k8s.verify.schemas import VERSIONS, Schemas, find_crds

NEEDS: Final = {
    "gateway": ("mtls", "tokens"),
    "hpa-aggregation": ("postgres", "postgres-server"),
    "keda-evaluation": ("postgres", "postgres-server", "prometheus", "keda"),
    "keda-guard-triton": ("guard-triton", "prometheus", "keda"),
    "keda-mtls": ("mtls", "prometheus", "keda"),
    "mtls": (),
    "postgres": ("postgres-server",),
    "postgres-server": ("postgres",),
    "tokens": ("mtls",),
}
"""What a component needs beside services that talk in plaintext."""
WITHOUT_WORKLOAD: Final = {"keda-pool"}
"""What these scale is the operator's."""
COMPONENTS: Final = sorted(each.name for each in (K8S / "components").iterdir())


@pytest.fixture(scope="module")
def kubectl() -> Path:
    try:
        return find_kubectl()
    except KubectlError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("component", sorted(set(COMPONENTS) - WITHOUT_WORKLOAD))
def test_a_component_goes_with_the_fleet(component: str, kubectl: Path, tmp_path: Path) -> None:
    needed = NEEDS.get(component, ())
    last = () if "mtls" in (component, *needed) else ("plaintext",)
    used = dict.fromkeys((*needed, component, *last))
    overlay = {
        "namespace": "evalfleet",
        "resources": [os.path.relpath(K8S / "base", tmp_path)],
        "components": [os.path.relpath(K8S / "components" / each, tmp_path) for each in used],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    found = findings(render(tmp_path, kubectl), Schemas(VERSIONS[-1:], find_crds()))
    assert not found, "\n".join(map(str, found))


def test_a_registry_has_all_images_of_ours(kubectl: Path, tmp_path: Path) -> None:
    written = K8S / "components" / "registry"
    known = {each["name"] for each in yaml.safe_load((written / "kustomization.yaml").read_text())["images"]}
    assert known == {f"{PREFIX}{each.name}" for each in (*IMAGES, *ON_DEMAND)}
    overlay = {
        "resources": [os.path.relpath(OVERLAYS / "prod", tmp_path)],
        "components": [os.path.relpath(written, tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    pods = render(tmp_path, kubectl).pods
    images = {each["image"] for pod in pods for each in pod.containers}
    assert any(each.startswith("registry.example.org/evalfleet/") for each in images)
    assert not [each for each in images if "evalfleet/" in each and not each.startswith("registry.example.org/")]


def test_the_readme_tells_of_each_component_overlay_secret_and_config_map() -> None:
    readme = (K8S / "README.md").read_text(encoding="utf-8")
    overlays = (each.name for each in (K8S / "overlays").iterdir())
    assert not [each for each in (*COMPONENTS, *overlays) if f"`{each}`" not in readme]
    assert not [each for each in PROVIDED.secrets if f"new {each} " not in readme]
    assert not [each for each in PROVIDED.config_maps if f"create configmap {each} " not in readme]


def test_the_alert_of_memory_comes_before_the_limit() -> None:
    rules = {rule.get("alert"): rule for group in rule_groups() for rule in group["rules"]}
    told = re.findall(r'job=~?"([^"]+)"} > ([\d.e]+)', rules["EvalfleetMemory"]["expr"])
    thresholds = {job: float(bytes_) for jobs, bytes_ in told for job in jobs.split("|")}
    assert thresholds.keys() >= {"evaluation", "generation", "safety", "scoring", "aggregation"}
    for job, threshold in thresholds.items():
        deployment = yaml.safe_load((K8S / "base" / job / "deployment.yaml").read_text(encoding="utf-8"))
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        limit = quantity(container["resources"]["limits"]["memory"])
        assert 0.5 * limit < threshold < 0.9 * limit, job
