"""Reads ScaledObjects and HorizontalPodAutoscalers from their YAML files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.autoscaling.horizontal import Behavior, Policy, Rules
from benchmarks.autoscaling.keda import Fallback, ScaledObject, Trigger

COMPONENTS: Final = Path(__file__).resolve().parents[2] / "k8s/components"
_DEFAULTS: Final = Behavior()


def read_document(path: Path) -> dict[str, Any]:
    """The one document of a file."""
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def scaled_object(document: Mapping[str, Any]) -> ScaledObject:
    """What a ScaledObject says, with KEDA's defaults for what it leaves out."""
    spec = document["spec"]
    told = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
    return ScaledObject(
        name=document["metadata"]["name"],
        target=spec["scaleTargetRef"]["name"],
        triggers=tuple(_trigger(each) for each in spec["triggers"]),
        least=spec.get("minReplicaCount", 0),
        most=spec.get("maxReplicaCount", 100),
        polling_seconds=spec.get("pollingInterval", 30),
        cooldown_seconds=spec.get("cooldownPeriod", 300),
        fallback=_fallback(spec["fallback"]) if "fallback" in spec else None,
        behavior=behavior(told),
    )


def behavior(told: Mapping[str, Any]) -> Behavior:
    """``spec.behavior`` of a HorizontalPodAutoscaler, with Kubernetes' defaults for what it leaves out."""
    return Behavior(_rules(told.get("scaleUp", {}), _DEFAULTS.up), _rules(told.get("scaleDown", {}), _DEFAULTS.down))


def _rules(told: Mapping[str, Any], default: Rules) -> Rules:
    policies = tuple(Policy(each["type"], each["value"], each["periodSeconds"]) for each in told.get("policies", ()))
    return Rules(
        told.get("stabilizationWindowSeconds", default.stabilization_seconds),
        policies or default.policies,
        told.get("selectPolicy", default.select),
        float(told.get("tolerance", default.tolerance)),
    )


def _trigger(told: Mapping[str, Any]) -> Trigger:
    metadata = told["metadata"]
    return Trigger(
        kind=told["type"],
        metadata=metadata,
        threshold=float(metadata["workPerReplica"] if told["type"] == "external-push" else metadata["threshold"]),
        metric_type=told.get("metricType", "AverageValue"),
        activation=float(metadata.get("activationThreshold", 0)),
        ignores_nulls=metadata.get("ignoreNullValues", "true") == "true",
    )


def _fallback(told: Mapping[str, Any]) -> Fallback:
    return Fallback(told["failureThreshold"], told["replicas"], told.get("behavior", "static"))
