"""What a ScaledObject's trigger says to the scaler, in the texts of its ``metadata``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.evaluation.checks import Violations
from services.evaluation.scaling.demand import Deployment
from services.runtime.errors import InvalidArgumentError
from services.runtime.names import nearest_names

_METADATA = "scaledObjectRef.scalerMetadata"
_LEAST_WORK, _MOST_WORK = 1e-3, 1e9
"""Kubernetes counts in thousandths."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """What is scaled, and by how much.

    Attributes:
        deployment: whose work counts.
        work_per_replica: items in flight that one replica is for; of the evaluation service, runs.
    """

    deployment: Deployment
    work_per_replica: float

    @property
    def metric_name(self) -> str:
        """Of its one metric."""
        return f"evalfleet-{self.deployment.value}-work"


def read_trigger(metadata: Mapping[str, str]) -> Trigger:
    """The trigger whose metadata KEDA sends along with its own entries, such as ``scalerAddress``.

    Raises:
        InvalidArgumentError: an entry is missing or cannot be read; each is named.
    """
    violations = Violations()
    deployment, work = _given(metadata, "deployment", violations), _given(metadata, "workPerReplica", violations)
    kinds = [each.value for each in Deployment]
    if deployment and deployment not in kinds:
        hint = "".join(f"; did you mean {each}?" for each in nearest_names(deployment, kinds, limit=1))
        violations.add(f"{_METADATA}.deployment", f"{deployment!r} is none of {', '.join(kinds)}{hint}")
    if work and not _LEAST_WORK <= _number(work) <= _MOST_WORK:
        violations.add(f"{_METADATA}.workPerReplica", f"{work!r} is no number from {_LEAST_WORK:g} to {_MOST_WORK:g}")
    violations.raise_if_any()
    return Trigger(Deployment(deployment), float(work))


def check_metric_name(trigger: Trigger, name: str) -> None:
    """Raise InvalidArgumentError if the trigger has no metric of this name."""
    if name != trigger.metric_name:
        raise InvalidArgumentError(
            f"no metric {name!r}; this trigger has {trigger.metric_name}",
            reason="UNKNOWN_METRIC",
            metadata={"metric": name, "known": trigger.metric_name},
        )


def _given(metadata: Mapping[str, str], name: str, violations: Violations) -> str:
    value = metadata.get(name, "").strip()
    if not value:
        hint = "".join(f"; is {each!r} meant for it?" for each in nearest_names(name, metadata, limit=1))
        violations.add(f"{_METADATA}.{name}", f"is missing{hint}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
