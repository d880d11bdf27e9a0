"""Connects to the fleet's own Triton, or to all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from prometheus_client import CollectorRegistry

from services.generation.backend import InferenceBackend
from services.generation.checkpoints import ContentDigests
from services.generation.engine_router import EngineRouter
from services.generation.pool.member import Connection
from services.generation.pool.metrics import PoolMetrics
from services.generation.pool.plan import ContentCheck
from services.generation.pool.targets import TritonTargets
from services.generation.pool.triton_pool import TritonPool
from services.generation.pool.upkeep import PoolLimits
from services.generation.settings import GenerationSettings
from services.inference.client import InferenceClient
from services.inference.control_key import read_control_key
from services.runtime.errors import FleetError


def _one_server(tell: Callable[[int], None]) -> None:
    tell(1)


@dataclass(frozen=True, slots=True)
class OwnTritons:
    """What the services are built on.

    Attributes:
        backend: asks them.
        count: calls what it is given with the number of servers that take requests, now and whenever it changes.
    """

    backend: InferenceBackend
    count: Callable[[Callable[[int], None]], None] = _one_server


@asynccontextmanager
async def open_tritons(settings: GenerationSettings, metrics: CollectorRegistry) -> AsyncIterator[OwnTritons]:
    """Yield what the settings name: one address, or a pool whose members come and go.

    Raises:
        StartupError: the key file cannot be used.
    """
    key = await read_control_key(settings.triton_key_file)
    targets = TritonTargets(settings.triton_target)
    if targets.only_address is not None:
        async with InferenceClient(targets.only_address, model_control_key=key) as client:
            router = EngineRouter(client, settings.engine_bounds)
            metrics.register(PoolMetrics(_Alone(router)))
            warming = asyncio.create_task(_warm_up_if_ready(router, settings), name="warm up")
            try:
                yield OwnTritons(router)
            finally:
                warming.cancel()
                await asyncio.wait([warming])
        return

    def connect(address: str) -> Connection:
        client = InferenceClient(address, model_control_key=key)
        router = EngineRouter(client, settings.engine_bounds)
        return Connection(router, client.close, partial(_warm_up, router, settings))

    limits = PoolLimits(
        lookup_interval_seconds=settings.triton_lookup_seconds,
        upkeep_interval_seconds=settings.reconcile_interval_seconds,
        load_timeout_seconds=settings.load_timeout_seconds,
    )
    async with TritonPool(targets, connect, ContentCheck(ContentDigests()), limits) as pool:
        metrics.register(PoolMetrics(pool))
        yield OwnTritons(pool, pool.count_for)


class _Alone:
    """Counts a Triton that is no pool, by what the loop that keeps its models last heard from it."""

    moved_requests = 0

    def __init__(self, router: EngineRouter) -> None:
        self._router = router

    @property
    def ready_count(self) -> int:
        return int(self._router.was_ready)

    @property
    def away_count(self) -> int:
        return 1 - self.ready_count


async def _warm_up_if_ready(router: EngineRouter, settings: GenerationSettings) -> None:
    if await router.is_ready():
        await _warm_up(router, settings)


async def _warm_up(router: EngineRouter, settings: GenerationSettings) -> None:
    """Start the checkpoint host, so that the first checkpoint need not wait for it."""
    if settings.auto_engine != "transformers":
        return
    try:
        await router.warm_up(timeout_seconds=settings.load_timeout_seconds)
    except FleetError as error:
        # The first checkpoint starts the host, and tells its caller what is wrong.
        structlog.get_logger(__name__).warning("warm_up_failed", reason=error.reason, error=error.message)
