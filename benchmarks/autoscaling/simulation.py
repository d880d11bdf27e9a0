"""Lets a rule scale a pool through a scenario, and says what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.autoscaling.keda import ScaledObject
from benchmarks.autoscaling.pool import Pool
from benchmarks.autoscaling.rules import (
    ClairvoyantRule,
    FixedRule,
    KedaRule,
    Outage,
    Rule,
    ScrapedSeries,
    UtilisationRule,
    queue_depth_object,
)
from benchmarks.autoscaling.scenarios import HOUR, Scenario

STEP_SECONDS = 1.0
PLANNED_BUSY_SHARE = 0.8
ACCEPTABLE_WAIT_SECONDS = 120.0
MakeRule = Callable[[Scenario, Pool, ScrapedSeries], Rule]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule did.

    Attributes:
        gpu_hours: of replicas that start, are ready or go.
        waits: seconds that items waited → how many did; what waits at the end counts.
        replicas: wanted, by minute.
        demand: items that are to be in flight, by minute.
        begun_again: items that a replica which went had not finished.
        completed: items.
        run_seconds: of each run, from its beginning to its last item; None if it was not over at the end.
    """

    gpu_hours: float
    waits: Mapping[int, int]
    replicas: tuple[int, ...]
    demand: tuple[int, ...]
    begun_again: int
    completed: int
    run_seconds: tuple[float | None, ...]

    @property
    def mean_run_minutes(self) -> float:
        """How long runs took; infinite if one did not end."""
        seconds = [float("inf") if each is None else each for each in self.run_seconds]
        return sum(seconds) / len(seconds) / 60

    def wait_quantile(self, share: float) -> float:
        """Seconds that this share of the items waited at most."""
        total, seen = sum(self.waits.values()), 0
        for seconds in sorted(self.waits):
            seen += self.waits[seconds]
            if seen >= share * total:
                return float(seconds)
        return 0.0

    @property
    def mean_wait(self) -> float:
        """Seconds that items waited."""
        return sum(seconds * count for seconds, count in self.waits.items()) / max(1, sum(self.waits.values()))

    @property
    def late_share(self) -> float:
        """Share of the items that waited longer than is acceptable."""
        late = sum(count for seconds, count in self.waits.items() if seconds > ACCEPTABLE_WAIT_SECONDS)
        return late / max(1, sum(self.waits.values()))

    def least_replicas(self, outage: Outage) -> tuple[int, int]:
        """Replicas when an outage began, and the fewest while it lasted."""
        first, last = int(outage.begins_at // 60), int(outage.ends_at // 60)
        return self.replicas[first], min(self.replicas[first:last])


def our_rule(scaled: ScaledObject) -> MakeRule:
    """A ScaledObject of ours, with as many replicas at most as there can be."""

    def make(scenario: Scenario, pool: Pool, series: ScrapedSeries) -> Rule:
        return KedaRule(replace(scaled, most=scenario.most), series, scenario.scaler_outage)

    return make


def other_rules() -> Mapping[str, MakeRule]:
    """The rules of others, by name."""
    return {
        "fixed": lambda scenario, pool, series: FixedRule(
            min(scenario.most, scenario.needed_at_peak(busy_share=PLANNED_BUSY_SHARE))
        ),
        "queue_depth": lambda scenario, pool, series: KedaRule(
            queue_depth_object(scenario.most), series, scenario.scaler_outage
        ),
        "gpu_utilisation": lambda scenario, pool, series: UtilisationRule(series, target=80.0, most=scenario.most),
        "clairvoyant": lambda scenario, pool, series: ClairvoyantRule(scenario.needed, scenario.replica.load_seconds),
    }


def simulate(scenario: Scenario, make_rule: MakeRule, *, seed: int = 1) -> Outcome:
    """Let a rule scale a pool through a scenario; chance is the same for all rules of a seed."""
    arrivals_of = np.random.default_rng(seed)
    pool = Pool(scenario.replica, scenario.runs, np.random.default_rng((seed, 1)))
    rule = make_rule(scenario, pool, ScrapedSeries(pool, scenario.metrics_outage))
    replicas, demand = [], []
    steps = int(scenario.seconds / STEP_SECONDS)
    arrivals = arrivals_of.poisson([STEP_SECONDS * scenario.rate(STEP_SECONDS * each) for each in range(steps)])
    if isinstance(rule, FixedRule):
        pool.ready = rule.count
    elif scenario.rate(0) > 0:
        pool.ready = scenario.needed(0, busy_share=PLANNED_BUSY_SHARE)
    for step in range(steps):
        pool.step(STEP_SECONDS, int(arrivals[step]))
        pool.resize(min(scenario.most, rule.decide(pool.now, pool)))
        if step % 60 == 0:
            replicas.append(pool.wanted)
            demand.append(pool.demand)
    waits = dict(pool.waits)
    for at, count in pool.waiting():
        waited = round(pool.now - at)
        waits[waited] = waits.get(waited, 0) + count
    return Outcome(
        gpu_hours=pool.replica_seconds / HOUR,
        waits=waits,
        replicas=tuple(replicas),
        demand=tuple(demand),
        begun_again=pool.begun_again,
        completed=pool.completed,
        run_seconds=tuple(
            None if ended is None else ended - run.begins_at
            for run, ended in zip(scenario.runs, pool.ended_at, strict=True)
        ),
    )
