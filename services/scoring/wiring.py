"""Puts the scoring service together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from services.runtime.item_streams import StreamLimits
from services.runtime.server import HostedService
from services.scoring.admission import Admission, AdmissionLimits
from services.scoring.judging import Judging
from services.scoring.plugins import registry_with_plugins
from services.scoring.pool.pool import PoolLimits, ScorerPool
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.sandbox.choosing import choose_sandbox
from services.scoring.service import hosted
from services.scoring.settings import ScoringSettings


@asynccontextmanager
async def wire(settings: ScoringSettings, metrics: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    """Yield the service.

    Raises:
        StartupError: two scorers have the same name.
    """
    sandbox = choose_sandbox(settings.sandbox, settings.sandbox_limits, settings.sandbox_programs)
    registry = registry_with_plugins(builtin_scorers(sandbox))
    admission = Admission(AdmissionLimits(settings.max_held_requests, settings.max_held_requests_per_caller), metrics)
    pool = ScorerPool(
        PoolLimits(settings.pool_workers, settings.pool_output_timeout_seconds, settings.pool_worker_memory_bytes),
        preloaded=_modules_of_heavy(registry),
        metrics=metrics,
    )
    try:
        limits = StreamLimits(settings.max_stream_items, settings.stream_item_timeout_seconds)
        yield [hosted(registry, Judging(pool, admission), stream_limits=limits)]
    finally:
        await pool.close()
        await sandbox.close()


def _modules_of_heavy(registry: ScorerRegistry) -> set[str]:
    heavy = [scorer for scorer in registry.scorers if scorer.about.is_heavy]
    return {type(scorer).__module__ for scorer in heavy} | {each for scorer in heavy for each in scorer.about.preloads}
