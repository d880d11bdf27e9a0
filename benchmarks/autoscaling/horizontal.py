"""The HorizontalPodAutoscaler's decision, as its controller makes it (autoscaling/v2, Kubernetes 1.34).

Tolerance, stabilisation windows, scaling policies and what happens without metrics follow
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ and its controller.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

SYNC_SECONDS: Final = 15.0
"""The controller decides every so often."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Replicas may change by so many, or by so many percent, within a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """How fast replicas may change in one direction."""

    stabilization_seconds: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"
    tolerance: float = 0.1


@dataclass(frozen=True, slots=True)
class Behavior:
    """How fast replicas may change; Kubernetes' defaults."""

    up: Rules = Rules(0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
    down: Rules = Rules(300, (Policy("Percent", 100, 15),))


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric at one moment.

    Attributes:
        value: over all replicas for AverageValue, mean of the ready ones for Utilization; None: it cannot be had.
        target: a replica's share, or the utilisation that is aimed at.
        kind: how the two are compared.
    """

    value: float | None
    target: float
    kind: Literal["AverageValue", "Value", "Utilization"] = "AverageValue"


class HorizontalAutoscaler:
    """One target's autoscaler; remembers its recommendations and what it did.

    Args:
        least: replicas, at least 1.
        most: replicas.
        behavior: how fast they may change.
    """

    def __init__(self, least: int, most: int, behavior: Behavior) -> None:
        self._least = least
        self._most = most
        self._behavior = behavior
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()
        self._has_decided = False
        rules = (behavior.up, behavior.down)
        self._memory_seconds = max(each.stabilization_seconds for each in rules)
        self._period_seconds = max((policy.period_seconds for each in rules for policy in each.policies), default=0.0)

    def decide(self, now: float, current: int, readings: Sequence[Reading], *, ready: int | None = None) -> int:
        """Return how many replicas there should be.

        Args:
            now: seconds; never less than before.
            current: replicas asked for so far; at zero nothing is decided.
            readings: of all metrics.
            ready: replicas that are ready; None: all.
        """
        if not self._has_decided:
            # What there was when it began counts as recommended, so that it takes nothing away at once.
            self._recommended.append((now, current))
            self._has_decided = True
        if current == 0:
            return 0
        if not self._least <= current <= self._most:
            return self._changed(now, current, min(max(current, self._least), self._most))
        proposed = self._proposal(current, readings, current if ready is None else ready)
        if proposed is None:
            return current
        return self._changed(now, current, self._limited(now, current, self._stabilised(now, current, proposed)))

    def _proposal(self, current: int, readings: Sequence[Reading], ready: int) -> int | None:
        """The largest that a metric asks for; None if any that cannot be had might have kept more."""
        proposals = [self._of_metric(each, current, ready) for each in readings if each.value is not None]
        if not proposals or (len(proposals) < len(readings) and max(proposals) < current):
            return None
        return max(proposals)

    def _of_metric(self, reading: Reading, current: int, ready: int) -> int:
        assert reading.value is not None
        if reading.kind == "AverageValue":
            ratio = reading.value / (reading.target * current)
            return current if self._is_tolerated(ratio) else math.ceil(_exact(reading.value / reading.target))
        ratio = reading.value / reading.target
        if reading.kind == "Utilization" and ratio > 1 and ready < current:
            # Those that are not ready yet are taken to be idle once they are.
            ratio = ratio * ready / current
            return current if ratio < 1 or self._is_tolerated(ratio) else math.ceil(_exact(ratio * current))
        return current if self._is_tolerated(ratio) else math.ceil(_exact(ratio * ready))

    def _is_tolerated(self, ratio: float) -> bool:
        return 1 - self._behavior.down.tolerance <= _exact(ratio) <= 1 + self._behavior.up.tolerance

    def _stabilised(self, now: float, current: int, proposed: int) -> int:
        """The proposal, or the safest one of those in the window of its direction."""
        up, down = self._behavior.up.stabilization_seconds, self._behavior.down.stabilization_seconds
        lowest = min((n for at, n in self._recommended if at > now - up), default=proposed)
        highest = max((n for at, n in self._recommended if at > now - down), default=proposed)
        self._recommended.append((now, proposed))
        while self._recommended and self._recommended[0][0] <= now - self._memory_seconds:
            self._recommended.popleft()
        return min(max(current, min(lowest, proposed)), max(highest, proposed))

    def _limited(self, now: float, current: int, wanted: int) -> int:
        """What the policies let through of a change."""
        if wanted > current:
            return min(wanted, self._most, max(current, self._up_limit(now, current)))
        if wanted < current:
            return max(wanted, self._least, min(current, self._down_limit(now, current)))
        return current

    def _up_limit(self, now: float, current: int) -> int:
        rules = self._behavior.up
        limits = []
        for policy in rules.policies:
            start = current - self._changed_since(now - policy.period_seconds)
            grown = start + policy.value if policy.kind == "Pods" else start * (1 + policy.value / 100)
            limits.append(math.ceil(_exact(grown)))
        return _selected(limits, rules.select, current, is_growth=True)

    def _down_limit(self, now: float, current: int) -> int:
        rules = self._behavior.down
        limits = []
        for policy in rules.policies:
            start = current - self._changed_since(now - policy.period_seconds)
            shrunk = start - policy.value if policy.kind == "Pods" else start * (1 - policy.value / 100)
            limits.append(math.floor(_exact(shrunk)))
        return _selected(limits, rules.select, current, is_growth=False)

    def _changed_since(self, since: float) -> int:
        """By how much there are more replicas than at the start of a period."""
        return sum(change for at, change in self._changes if at > since)

    def _changed(self, now: float, current: int, wanted: int) -> int:
        while self._changes and self._changes[0][0] <= now - self._period_seconds:
            self._changes.popleft()
        if wanted != current:
            self._changes.append((now, wanted - current))
        return wanted


def _selected(limits: Sequence[int], select: str, current: int, *, is_growth: bool) -> int:
    """Return the limit that the policies' ``selectPolicy`` names; ``Disabled``: nothing changes."""
    if select == "Disabled" or not limits:
        return current
    return max(limits) if (select == "Max") == is_growth else min(limits)


def _exact(value: float) -> float:
    """Without the noise of binary fractions, by which ceil(3.0000000000000004) would be four."""
    return round(value, 9)
