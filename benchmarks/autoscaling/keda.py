"""What KEDA's operator does between its triggers and the HorizontalPodAutoscaler that it makes.

From https://keda.sh/docs/2.18 (ScaledObject) and the operator's ``RequestScale`` and ``doFallback``: zero to one and
back is KEDA's own decision, once every polling interval or when a trigger pushes; from one on the autoscaler decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.autoscaling.horizontal import Behavior, HorizontalAutoscaler, Reading


@dataclass(frozen=True, slots=True)
class Trigger:
    """One entry of ``spec.triggers``.

    Attributes:
        kind: ``prometheus``, ``external-push`` …
        metadata: as it is written.
        threshold: the target of its metric.
        metric_type: how the value is compared with the target.
        activation: more than this is work, for zero to one.
        ignores_nulls: whether an empty answer counts as 0; otherwise it is an error.
    """

    kind: str
    metadata: Mapping[str, str]
    threshold: float
    metric_type: Literal["AverageValue", "Value"] = "AverageValue"
    activation: float = 0.0
    ignores_nulls: bool = True


@dataclass(frozen=True, slots=True)
class Fallback:
    """What replicas are taken for if a trigger has failed more often than ``failure_threshold`` in a row."""

    failure_threshold: int
    replicas: int
    behavior: str = "static"


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """What a ScaledObject says."""

    name: str
    target: str
    triggers: tuple[Trigger, ...]
    least: int = 0
    most: int = 100
    polling_seconds: float = 30.0
    cooldown_seconds: float = 300.0
    fallback: Fallback | None = None
    behavior: Behavior = field(default_factory=Behavior)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a trigger answers: its value, and whether there is work."""

    value: float
    is_active: bool


class KedaOperator:
    """The operator and the autoscaler of one ScaledObject; its times are seconds that never go back."""

    def __init__(self, scaled: ScaledObject) -> None:
        self.scaled = scaled
        self.autoscaler = HorizontalAutoscaler(max(1, scaled.least), scaled.most, scaled.behavior)
        self._failures = [0] * len(scaled.triggers)
        self._last_active: float | None = None

    def woken(self, now: float, replicas: int) -> int:
        """A trigger has pushed that there is work: return the replicas that follow at once."""
        self._last_active = now
        return replicas or max(1, self.scaled.least)

    def poll(self, now: float, replicas: int, samples: Sequence[Sample | None]) -> int:
        """Decide between zero and one; a sample that is None is an error."""
        scaled, has_error = self.scaled, None in samples
        if any(each is not None and each.is_active for each in samples):
            if replicas == 0:
                return self.woken(now, replicas)
            if not has_error:
                self._last_active = now
            return replicas
        # With a fallback to zero replicas KEDA takes an error for the absence of work.
        if has_error and (scaled.fallback is None or scaled.fallback.replicas != 0):
            return replicas
        if replicas > 0 and scaled.least == 0:
            is_cool = self._last_active is None or now > self._last_active + scaled.cooldown_seconds
            return 0 if is_cool else replicas
        return max(replicas, scaled.least)

    def scale(self, now: float, replicas: int, samples: Sequence[Sample | None], *, ready: int | None = None) -> int:
        """Decide from one replica on."""
        readings = [self._reading(index, sample, replicas) for index, sample in enumerate(samples)]
        return self.autoscaler.decide(now, replicas, readings, ready=ready)

    def _reading(self, index: int, sample: Sample | None, replicas: int) -> Reading:
        trigger, fallback = self.scaled.triggers[index], self.scaled.fallback
        value = None if sample is None else sample.value
        self._failures[index] = self._failures[index] + 1 if sample is None else 0
        if fallback is not None and self._failures[index] > fallback.failure_threshold:
            kept = _fallback_replicas(fallback, replicas)
            value = trigger.threshold * (kept if trigger.metric_type == "AverageValue" else kept / max(1, replicas))
        return Reading(value, trigger.threshold, trigger.metric_type)


def _fallback_replicas(fallback: Fallback, current: int) -> int:
    return {
        "currentReplicas": current,
        "currentReplicasIfHigher": max(current, fallback.replicas),
        "currentReplicasIfLower": min(current, fallback.replicas),
    }.get(fallback.behavior, fallback.replicas)
