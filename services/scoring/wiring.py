"""Puts the scoring service together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from services.runtime.item_streams import StreamLimits
from services.runtime.server import HostedService
from services.scoring.admission import Admission, AdmissionLimits
from services.scoring.encoder_wiring import open_similarity
from services.scoring.judge_wiring import open_judge
from services.scoring.judging import Judging
from services.scoring.plugins import registry_with_plugins
from services.scoring.pool.pool import PoolLimits, ScorerPool
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.sandbox_wiring import open_sandbox
from services.scoring.service import hosted
from services.scoring.settings import ScoringSettings


@asynccontextmanager
async def wire(settings: ScoringSettings, metrics: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    """Yield the service. It serves without a generation service, which judges need, and without Triton, as encoders do.

    Raises:
        StartupError: two scorers have the same name, or a rubric, the cache of judges' answers or the
            key file of Triton cannot be used.
    """
    async with AsyncExitStack() as stack:
        judge = await open_judge(settings, metrics, stack)
        sandbox = await open_sandbox(settings, metrics, stack)
        similarity = await open_similarity(settings, stack)
        registry = registry_with_plugins((*builtin_scorers(sandbox), judge, similarity))
        limits = AdmissionLimits(
            settings.max_held_requests,
            settings.max_held_requests_per_caller,
            settings.max_held_bytes,
            settings.max_held_bytes_per_caller,
        )
        pool = ScorerPool(
            PoolLimits(settings.pool_workers, settings.pool_output_timeout_seconds, settings.pool_worker_memory_bytes),
            preloaded=_modules_of_heavy(registry),
            metrics=metrics,
        )
        stack.push_async_callback(pool.close)
        stream_limits = StreamLimits(settings.max_stream_items, settings.stream_item_timeout_seconds)
        yield [hosted(registry, Judging(pool, Admission(limits, metrics)), stream_limits=stream_limits)]


def _modules_of_heavy(registry: ScorerRegistry) -> set[str]:
    heavy = [scorer for scorer in registry.scorers if scorer.about.is_heavy]
    return {type(scorer).__module__ for scorer in heavy} | {each for scorer in heavy for each in scorer.about.preloads}
