"""The rules that are compared: ours, from the files in ``k8s``, and those of others."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from benchmarks.autoscaling.horizontal import SYNC_SECONDS, Behavior, HorizontalAutoscaler, Reading
from benchmarks.autoscaling.keda import KedaOperator, Sample, ScaledObject, Trigger
from benchmarks.autoscaling.pool import Pool
from benchmarks.autoscaling.promql import Labels, Matcher, Query, Vector

SCRAPE_SECONDS = 15.0
_STREAMS: Final = "evalfleet.generation.v1.GenerationService/StreamGenerate"
_STREAM_ITEMS: Final = 64
"""Items of one stream at once: EVALFLEET_MAX_STREAM_ITEMS."""


@dataclass(slots=True)
class Outage:
    """From when to when something cannot be had; seconds."""

    begins_at: float = float("inf")
    ends_at: float = float("inf")

    def holds(self, now: float) -> bool:
        """Whether it is now."""
        return self.begins_at <= now < self.ends_at


class ScrapedSeries:
    """What Prometheus knows of the pool: its state at the last scrape, and nothing while its targets are lost to it."""

    def __init__(self, pool: Pool, outage: Outage) -> None:
        self._pool = pool
        self._outage = outage
        self._scraped_at = float("-inf")
        self._values: Mapping[str, Sequence[tuple[Mapping[str, str], float]]] = {}

    def select(self, name: str, matches: Matcher) -> Vector:
        """The newest values of a series."""
        found: dict[Labels, float] = {}
        for labels, value in self._values.get(name, ()):
            if matches(labels):
                found[frozenset(labels.items())] = value
        return found

    def scrape(self) -> None:
        """Look at the pool if it is time to."""
        pool = self._pool
        if self._outage.holds(pool.now):
            self._values = {}
            return
        if pool.now < self._scraped_at + SCRAPE_SECONDS and self._values:
            return
        self._scraped_at = pool.now
        job = {"job": "generation"}
        # Replicas are alike: one series stands for the sum, or the mean, of all.
        replicas = [{"job": "triton-pool"}] if pool.ready else []
        self._values = {
            "evalfleet_work_items": [
                ({**job, "state": "running"}, pool.running),
                ({**job, "state": "queued"}, pool.queued),
            ],
            "evalfleet_oldest_wait_seconds": [(job, pool.oldest_wait)],
            "evalfleet_backlog_tokens": [(job, pool.queued * pool.replica.tokens)],
            "evalfleet_calls_running": [({**job, "grpc_method": _STREAMS}, math.ceil(pool.demand / _STREAM_ITEMS))],
            "evalfleet_generation_tritons": [({**job, "state": "ready"}, pool.ready)],
            "vllm:num_requests_waiting": [(each, pool.queued) for each in replicas],
            "DCGM_FI_DEV_GPU_UTIL": [(each, 100 * pool.busy_share) for each in replicas],
        }


class Rule(Protocol):
    """Says how many replicas there should be."""

    def decide(self, now: float, pool: Pool) -> int:
        """The replicas that are wanted now; asked every step."""
        ...


class KedaRule:
    """A ScaledObject, decided by KEDA and the autoscaler on the pool's series and on the runs.

    Args:
        scaled: its file.
        series: what Prometheus knows.
        scaler_outage: when the scaler of the evaluation service does not answer.
    """

    def __init__(self, scaled: ScaledObject, series: ScrapedSeries, scaler_outage: Outage) -> None:
        self._operator = KedaOperator(scaled)
        self._series = series
        self._scaler_outage = scaler_outage
        self._queries = [_query(each) for each in scaled.triggers]
        self._was_active = False
        self._polls_at = 0.0
        self._syncs_at = 7.0

    def decide(self, now: float, pool: Pool) -> int:
        """See ``Rule``."""
        self._series.scrape()
        replicas = pool.wanted
        if self._is_pushed(now, pool):
            replicas = self._operator.woken(now, replicas)
        if now >= self._polls_at:
            self._polls_at += self._operator.scaled.polling_seconds
            replicas = self._operator.poll(now, replicas, self._samples(now, pool))
        if now >= self._syncs_at:
            self._syncs_at += SYNC_SECONDS
            replicas = self._operator.scale(now, replicas, self._samples(now, pool), ready=pool.ready)
        return replicas

    def _is_pushed(self, now: float, pool: Pool) -> bool:
        if self._scaler_outage.holds(now) or None not in self._queries:
            return False
        was_active, self._was_active = self._was_active, pool.demand > 0
        return self._was_active and not was_active

    def _samples(self, now: float, pool: Pool) -> list[Sample | None]:
        return [
            self._sample(trigger, query, now, pool)
            for trigger, query in zip(self._operator.scaled.triggers, self._queries, strict=True)
        ]

    def _sample(self, trigger: Trigger, query: Query | None, now: float, pool: Pool) -> Sample | None:
        if query is None:
            return None if self._scaler_outage.holds(now) else Sample(pool.demand, pool.demand > 0)
        value = query.value(self._series)
        if value is None:
            return Sample(0.0, False) if trigger.ignores_nulls else None
        return Sample(value, value > trigger.activation)


class UtilisationRule:
    """An autoscaler on the mean utilisation of the replicas' GPUs, in percent; it cannot be at zero."""

    def __init__(self, series: ScrapedSeries, *, target: float, most: int) -> None:
        self._series = series
        self._target = target
        self._query = Query.parse("avg(DCGM_FI_DEV_GPU_UTIL)")
        self._autoscaler = HorizontalAutoscaler(1, most, Behavior())
        self._syncs_at = 7.0

    def decide(self, now: float, pool: Pool) -> int:
        """See ``Rule``."""
        self._series.scrape()
        if now < self._syncs_at:
            return max(1, pool.wanted)
        self._syncs_at += SYNC_SECONDS
        reading = Reading(self._query.value(self._series), self._target, "Utilization")
        return self._autoscaler.decide(now, max(1, pool.wanted), [reading], ready=pool.ready)


@dataclass(slots=True)
class FixedRule:
    """Always as many."""

    count: int

    def decide(self, now: float, pool: Pool) -> int:
        """See ``Rule``."""
        return self.count


@dataclass(slots=True)
class ClairvoyantRule:
    """Knows what will be asked: replicas are ready when they are needed, and go when they are not.

    Attributes:
        needed: replicas that a moment needs, when they are all busy.
        load_seconds: how long before they are asked for.
    """

    needed: Callable[[float], int]
    load_seconds: float
    _step_seconds: float = field(default=60.0, init=False)
    _next_at: float = field(default=0.0, init=False)

    def decide(self, now: float, pool: Pool) -> int:
        """See ``Rule``."""
        if now < self._next_at:
            return pool.wanted
        self._next_at = now + self._step_seconds
        ahead = int((self.load_seconds + self._step_seconds) // 30) + 1
        planned = max(self.needed(now + 30.0 * step) for step in range(ahead + 1))
        # Items whose time was longer than the mean are still there.
        return max(planned, -(-pool.demand // pool.replica.slots) if pool.demand else 0)


def _query(trigger: Trigger) -> Query | None:
    return Query.parse(trigger.metadata["query"]) if trigger.kind == "prometheus" else None


def queue_depth_object(most: int) -> ScaledObject:
    """The rule of vLLM's production-stack: five waiting requests a replica, asked every 15 s; KEDA's other defaults."""
    trigger = Trigger("prometheus", {"query": "sum(vllm:num_requests_waiting)"}, threshold=5.0)
    return ScaledObject(
        "queue-depth", "triton-pool", (trigger,), least=1, most=most, polling_seconds=15, cooldown_seconds=360
    )
