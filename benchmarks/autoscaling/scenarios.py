"""The loads that rules are compared on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.autoscaling.pool import Replica, Run
from benchmarks.autoscaling.rules import Outage

HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load, and what goes wrong meanwhile.

    Attributes:
        name: in the figures' keys.
        title: for people.
        seconds: how long it lasts.
        replica: what each replica is.
        most: replicas that there can be.
        runs: what is evaluated.
        rate: items a second of runs that are too many to be told apart.
        metrics_outage: when Prometheus has lost its targets.
        scaler_outage: when the evaluation service's scaler does not answer.
    """

    name: str
    title: str
    seconds: float
    replica: Replica
    most: int
    runs: tuple[Run, ...] = ()
    rate: Callable[[float], float] = field(default=lambda _: 0.0)
    metrics_outage: Outage = field(default_factory=Outage)
    scaler_outage: Outage = field(default_factory=Outage)

    def wanted_at_once(self, now: float) -> float:
        """Items that are in flight at a moment if nothing waits (Little's law)."""
        service = self.replica.service_seconds
        of_runs = sum(
            run.concurrency
            for run in self.runs
            if run.begins_at <= now < run.begins_at + run.items / run.concurrency * service
        )
        return of_runs + self.rate(now) * service

    def needed(self, now: float, *, busy_share: float = 1.0) -> int:
        """Replicas that a moment needs, if so much of each may be busy."""
        return math.ceil(round(self.wanted_at_once(now) / (busy_share * self.replica.slots), 9))

    def needed_at_peak(self, *, busy_share: float) -> int:
        """The largest number that any minute needs."""
        return max(self.needed(60.0 * minute, busy_share=busy_share) for minute in range(int(self.seconds // 60)))


def daily(mean: float, swing: float) -> Callable[[float], float]:
    """A rate that is highest at 14 o'clock and lowest twelve hours away; ``swing`` is a share of the mean."""
    return lambda now: mean * (1 + swing * math.cos(2 * math.pi * (now / HOUR - 14) / 24))


def all_scenarios() -> tuple[Scenario, ...]:
    """Bursts, a day, an outage of metrics, the same with the scaler away, and a thousand GPUs."""
    small = Replica(slots=64, service_seconds=20.0, load_seconds=240.0, tokens=780)
    # Four suites each hour, of each checkpoint of a training.
    checkpoints = tuple(Run(HOUR * hour, 40_000, 640) for hour in range(1, 8) for _ in range(4))
    day = daily(75.0, 0.8)
    # While the load grows: what is held is soon too little, what is shed is missed at once.
    outage = Outage(9 * HOUR, 10 * HOUR)
    long = Replica(slots=64, service_seconds=120.0, load_seconds=420.0, tokens=6000)
    return (
        Scenario("bursts", "a checkpoint an hour: 4 runs of 40,000 items", 9 * HOUR, small, 64, runs=checkpoints),
        Scenario("day", "a day of many runs, 54,000 to 486,000 items an hour", 24 * HOUR, small, 64, rate=day),
        Scenario(
            "outage", "the day, metrics lost from 9 to 10", 24 * HOUR, small, 64, rate=day,
            metrics_outage=outage,
        ),
        Scenario(
            "blackout", "the day, metrics and scaler lost from 9 to 10", 24 * HOUR, small, 64, rate=day,
            metrics_outage=outage, scaler_outage=outage,
        ),
        Scenario(
            "thousand", "up to 1,000 GPUs, 10⁶ items an hour", 24 * HOUR, long, 1000, rate=daily(1e6 / HOUR, 0.4)
        ),
    )  # fmt: skip
