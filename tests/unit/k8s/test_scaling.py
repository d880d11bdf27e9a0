"""What scales the fleet: valid, on signals of our own, and of a kind that an outage of metrics sheds nothing."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from benchmarks.autoscaling.manifests import COMPONENTS, read_document, scaled_object
from benchmarks.autoscaling.promql import Query
from services.evaluation.scaling.demand import Deployment
from services.evaluation.scaling.service import FULL_NAME
from services.evaluation.scaling.trigger import read_trigger
from services.evaluation.settings import EvaluationSettings
from services.generation.pool.metrics import PoolMetrics
from services.runtime.health import LIVENESS
from services.runtime.interceptors.admission import Admission
from services.runtime.security.roles import METHOD_ROLES
from services.runtime.settings import ENV_PREFIX
from services.runtime.work import Work, WorkMetrics

KUBERNETES = "1.34"
NATIVE = ("HorizontalPodAutoscaler", "NetworkPolicy")
FOLDERS = [
    COMPONENTS / each
    for each in ("keda", "keda-guard-triton", "keda-pool", "keda-evaluation", "keda-mtls", "hpa", "hpa-aggregation")
]
DOCUMENTS = {
    str(path.relative_to(COMPONENTS)): read_document(path)
    for folder in FOLDERS
    for path in sorted(folder.glob("*.yaml"))
    if path.name not in ("scaled-object-patch.yaml", "requests-patch.yaml", "kustomization.yaml")
}
SCALED = {name: each for name, each in DOCUMENTS.items() if each["kind"] == "ScaledObject"}
SCALERS = {name: each for name, each in DOCUMENTS.items() if each["kind"] == "HorizontalPodAutoscaler"}


def triggers(kind: str) -> list[Mapping[str, Any]]:
    return [each for document in SCALED.values() for each in document["spec"]["triggers"] if each["type"] == kind]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda each: each.name)
def test_every_file_of_a_component_is_used(folder: Path) -> None:
    component = read_document(folder / "kustomization.yaml")
    named = {*component["resources"], *(each["path"] for each in component.get("patches", ()) if "path" in each)}
    assert named | {"kustomization.yaml"} == {each.name for each in folder.iterdir()}


@pytest.mark.parametrize("name", sorted(name for name, each in DOCUMENTS.items() if each["kind"] in NATIVE))
def test_a_manifest_is_what_kubernetes_takes(name: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("name", sorted(name for name, each in DOCUMENTS.items() if "keda.sh" in each["apiVersion"]))
def test_a_manifest_is_what_keda_takes(name: str, data_dir: Path) -> None:
    document = DOCUMENTS[name]
    path = data_dir / f"crds/keda.sh_{document['kind'].lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    [version] = read_document(path)["spec"]["versions"]
    schema = _closed(version["schema"]["openAPIV3Schema"])
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "spec": {**document["spec"], "coolDownPeriod": 1}}, schema)


def _closed(schema: Any) -> Any:
    """The same schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(each) for key, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    if set(schema) >= {"apiVersion", "kind", "metadata"} and "properties" not in schema:
        closed["metadata"] = {"type": "object"}
    return closed


@pytest.mark.parametrize("name", sorted(SCALED))
def test_an_outage_of_metrics_sheds_nothing(name: str) -> None:
    spec = SCALED[name]["spec"]
    assert spec["fallback"]["behavior"] == "currentReplicas"
    # With 0, KEDA takes a trigger that fails for one that is idle.
    assert spec["fallback"]["replicas"] >= 1
    for trigger in spec["triggers"]:
        if trigger["type"] == "prometheus":
            assert trigger["metadata"]["ignoreNullValues"] == "false"


@pytest.mark.parametrize("name", sorted(SCALED))
def test_what_may_sleep_is_woken_by_runs(name: str) -> None:
    scaled = scaled_object(SCALED[name])
    pushed = [each for each in scaled.triggers if each.kind == "external-push"]
    assert len(pushed) == 1
    assert scaled.target != "evaluation" or scaled.least >= 1
    assert scaled.least > 0 or read_trigger(pushed[0].metadata).deployment is not Deployment.EVALUATION


def test_queries_read_series_that_services_have_and_none_of_gpus_or_triton() -> None:
    registry = CollectorRegistry()
    registry.register(WorkMetrics([lambda: Work(backlog_tokens=1)]))
    registry.register(Admission(1, 1))
    registry.register(PoolMetrics(SimpleNamespace(ready_count=1, away_count=0, moved_requests=0)))
    known = {family.name for family in registry.collect()} | {"up"}
    for trigger in triggers("prometheus"):
        query = Query.parse(trigger["metadata"]["query"])
        assert query.names <= known, query.text
        float(trigger["metadata"]["threshold"])


def test_the_scaler_understands_its_triggers_and_runs_fit_the_evaluation_service() -> None:
    read = {each["metadata"]["deployment"]: read_trigger(each["metadata"]) for each in triggers("external-push")}
    assert set(read) == {"triton", "guard", "generation", "evaluation"}
    assert read["evaluation"].work_per_replica == EvaluationSettings().parallel_runs
    # KEDA asks from a namespace of its own.
    address = "evaluation.evalfleet.svc:8100"
    assert {each["metadata"]["scalerAddress"] for each in triggers("external-push")} == {address}


def test_the_trigger_that_mtls_is_for_is_the_first() -> None:
    for scaled in SCALED.values():
        assert [each["type"] == "external-push" for each in scaled["spec"]["triggers"]].index(True) == 0
    [container] = DOCUMENTS["keda-mtls/evaluation-patch.yaml"]["spec"]["template"]["spec"]["containers"]
    [peers] = [each["value"] for each in container["env"] if each["name"] == "EVALFLEET_TLS_PEERS"]
    [given] = [each["value"] for each in _evaluation_over_mtls()["env"] if each["name"] == "EVALFLEET_TLS_PEERS"]
    [name] = DOCUMENTS["keda-mtls/certificate.yaml"]["spec"]["dnsNames"]
    assert peers == f"{given},{name}={METHOD_ROLES[f'{FULL_NAME}/IsActive']}"


def _evaluation_over_mtls() -> dict[str, Any]:
    patch = read_document(COMPONENTS / "mtls/evaluation-patch.yaml")
    [container] = patch["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: apt-get install prometheus)")
def test_prometheus_understands_the_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"scaling:{index}", "expr": each["metadata"]["query"]}
        for index, each in enumerate(triggers("prometheus"))
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "scaling", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(SCALERS))
def test_thin_services_neither_flap_nor_fall_to_one(name: str) -> None:
    spec = SCALERS[name]["spec"]
    assert spec["scaleTargetRef"]["name"] == SCALERS[name]["metadata"]["name"] == Path(name).stem
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"] <= 60


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders it")
def test_what_is_judged_wakes_the_guards_triton_and_not_the_other() -> None:
    overlay = COMPONENTS.parent / "overlays/prod"
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True, timeout=60)
    documents = [each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "ScaledObject"]
    by_target = {each["spec"]["scaleTargetRef"]["name"]: each["spec"]["triggers"] for each in documents}
    assert set(by_target) == {"triton", "guard-triton", "evaluation"}
    for target, deployment in (("triton", "generation"), ("guard-triton", "guard")):
        pushed, *asked = by_target[target]
        assert pushed["metadata"]["deployment"] == deployment
        assert pushed["authenticationRef"] == {"name": "keda"}
        assert all(("safety" in each["metadata"]["query"]) == (deployment == "guard") for each in asked)


def test_patches_set_what_services_read() -> None:
    [container] = DOCUMENTS["keda/evaluation-patch.yaml"]["spec"]["template"]["spec"]["containers"]
    [variable] = container["env"]
    assert variable["name"].removeprefix(ENV_PREFIX).lower() in EvaluationSettings.model_fields
    # A run must outlive that its models wake.
    assert float(variable["value"]) >= 1800
    for service in ("generation", "safety"):
        [container] = DOCUMENTS[f"keda/{service}-patch.yaml"]["spec"]["template"]["spec"]["containers"]
        assert container["readinessProbe"]["grpc"]["service"] == LIVENESS


def test_no_more_foreign_tritons_are_asked_for_than_requests_are_let_out_to() -> None:
    spec = SCALED["keda-pool/triton-pool.yaml"]["spec"]
    patch = yaml.safe_load((COMPONENTS / "keda-pool/requests-patch.yaml").read_text())
    let_out = {each["value"]["name"]: int(each["value"]["value"]) for each in patch}
    assert spec["maxReplicaCount"] * 64 <= let_out["EVALFLEET_MAX_ENGINE_REQUESTS"]
    # Replicas do not change how long waits what cannot be let out: such a trigger would ask for ever more.
    assert not [each for each in spec["triggers"] if "oldest_wait" in each["metadata"].get("query", "")]
