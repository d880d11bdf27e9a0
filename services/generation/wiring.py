"""Puts the generation service together."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from functools import partial

from evalfleet.generation.v1 import generation_pb2_grpc, model_pb2_grpc
from prometheus_client import CollectorRegistry

from services.generation.admission import Admission, AdmissionLimits
from services.generation.answering import Answering
from services.generation.backend import InferenceBackend
from services.generation.cache.answer_cache import AnswerCache
from services.generation.cache.cached_generator import CachedGenerator
from services.generation.checkpoints import ContentDigests
from services.generation.cost.accounting import AccountedGenerator
from services.generation.cost.caller_ledger import CallerLedger
from services.generation.downloads import DownloadStore
from services.generation.foreign.backend import ForeignTritons
from services.generation.foreign.registration import ForeignModels
from services.generation.foreign.routing import ForeignRouter
from services.generation.foreign.target import AllowedTargets
from services.generation.generator import Generator
from services.generation.lifecycle import LifecycleLimits, ModelLifecycle
from services.generation.load_records import LoadRecords
from services.generation.loading import CheckpointLoader, LoadingLimits
from services.generation.model_metrics import ModelMetrics
from services.generation.models import ModelState
from services.generation.own_tritons import open_tritons
from services.generation.registration import ModelRegistrar, RegistrationRules
from services.generation.registry import ModelRegistry
from services.generation.residency import MemoryLimits
from services.generation.retention import RetentionPolicy
from services.generation.service import (
    DECODERS,
    GENERATION_SERVICE,
    MODEL_SERVICE,
    UNBOUNDED_METHODS,
    GenerationServicer,
    ModelServicer,
)
from services.generation.settings import GenerationSettings
from services.generation.sources import CheckpointSources
from services.inference.engine_revision import engine_revision
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.opening import open_store
from services.runtime.item_streams import StreamLimits
from services.runtime.prices import read_price_table
from services.runtime.security.audit import AuditLog
from services.runtime.server import HostedService
from services.runtime.server_info import Artifact

CACHE_FILE_NAME = "answers.sqlite3"
CACHE_NAMESPACE = "evalfleet:answers"


@asynccontextmanager
async def wire(settings: GenerationSettings, metrics: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    """Yield the services, backed by the Tritons that the settings name.

    Raises:
        StartupError: the state folder or the key file cannot be used.
    """
    async with (
        open_tritons(settings, metrics) as tritons,
        wire_backend(settings, metrics, tritons.backend, tritons.count) as services,
    ):
        yield services


@asynccontextmanager
async def wire_backend(
    settings: GenerationSettings,
    metrics: CollectorRegistry,
    own_backend: InferenceBackend,
    count_servers: Callable[[Callable[[int], None]], None] = lambda tell: tell(1),
) -> AsyncIterator[Sequence[HostedService]]:
    """Yield the services on top of any backend; registered models begin to load at once.

    Args:
        settings: the service's.
        metrics: receives what the parts report.
        own_backend: asks the fleet's own inference servers.
        count_servers: see ``OwnTritons.count``.
    """
    digests = ContentDigests()
    prices = read_price_table(settings.price_table)
    async with AsyncExitStack() as stack:
        tritons = ForeignTritons(AllowedTargets(settings.foreign_targets), metrics)
        stack.push_async_callback(tritons.close)
        backend = ForeignRouter(own_backend, tritons)
        registry = stack.enter_context(closing(ModelRegistry(settings.state_dir)))
        sources = _sources(settings, registry)
        roots = (*settings.checkpoint_folders, sources.folder)
        limits = LoadingLimits(
            load_timeout_seconds=settings.load_timeout_seconds, concurrent_loads=settings.concurrent_loads
        )
        loader = CheckpointLoader(backend, digests, roots, limits, sources)
        lifecycle = ModelLifecycle(
            registry,
            backend,
            loader,
            LifecycleLimits(
                ready_wait_seconds=settings.ready_wait_seconds,
                reconcile_interval_seconds=settings.reconcile_interval_seconds,
                memory=MemoryLimits(settings.model_memory_bytes, settings.model_overhead_bytes),
                retention=RetentionPolicy(settings.unused_models_kept, timedelta(days=settings.unused_model_days)),
            ),
            LoadRecords(
                AuditLog(settings.audit_file, service=MODEL_SERVICE), callers_are_proven=settings.checks_callers
            ),
        )
        rules = RegistrationRules(roots, settings.auto_dtype, settings.create_wait_seconds, settings.auto_engine)
        admission = Admission(
            AdmissionLimits(
                running=settings.max_engine_requests,
                running_per_call=settings.max_engine_requests_per_call,
                queued=settings.max_queued_requests,
                queued_per_caller=settings.max_queued_requests_per_caller,
                aging_seconds=settings.aging_seconds,
            ),
            metrics,
        )
        count_servers(admission.resize)
        generator = Generator(
            lifecycle, backend, admission, request_timeout_seconds=settings.engine_request_timeout_seconds
        )
        answering = await _with_cache(settings, metrics, generator, lifecycle, stack)
        callers = await CallerLedger.open(settings.state_dir)
        stack.push_async_callback(callers.close)
        generation = GenerationServicer(
            AccountedGenerator(answering, prices, callers, metrics),
            callers,
            StreamLimits(settings.max_stream_items, settings.stream_item_timeout_seconds),
        )
        foreign_models = ForeignModels(tritons, sources, roots)
        registrar = ModelRegistrar(registry, lifecycle, digests, rules, sources, foreign_models)
        models = ModelServicer(registrar, lifecycle)
        metrics.register(ModelMetrics(lifecycle))
        await lifecycle.start()
        try:
            yield (
                HostedService(
                    GENERATION_SERVICE,
                    lambda server: generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, server),
                    readiness=backend.is_ready,
                    unbounded_methods=UNBOUNDED_METHODS,
                    decoders=DECODERS,
                    work=admission.work,
                ),
                HostedService(
                    MODEL_SERVICE,
                    lambda server: model_pb2_grpc.add_ModelServiceServicer_to_server(models, server),
                    readiness=backend.is_ready,
                    artifacts=partial(_artifacts, lifecycle),
                ),
            )
        finally:
            await lifecycle.close()


def _artifacts(lifecycle: ModelLifecycle) -> Iterator[Artifact]:
    return (Artifact(f"models/{each.model_id}", each.digest) for each in lifecycle.records() if each.digest)


async def _with_cache(
    settings: GenerationSettings,
    registry: CollectorRegistry,
    generator: Generator,
    lifecycle: ModelLifecycle,
    stack: AsyncExitStack,
) -> Answering:
    """Return the generator behind the cache that the settings name; it is closed with ``stack``."""
    metrics = CacheMetrics("generation", registry)
    store = await open_store(
        settings.cache_url,
        default_path=settings.state_dir / CACHE_FILE_NAME,
        namespace=CACHE_NAMESPACE,
        max_bytes=settings.cache_max_bytes,
        lifetime_seconds=settings.cache_lifetime_seconds,
        timeout_seconds=settings.cache_timeout_seconds,
        metrics=metrics,
    )
    if store is None:
        return generator
    stack.push_async_callback(store.close)
    return CachedGenerator(
        generator,
        lifecycle,
        AnswerCache(store, metrics),
        engine_revision=engine_revision(settings.engine_revision),
    )


def _sources(settings: GenerationSettings, registry: ModelRegistry) -> CheckpointSources:
    def in_use() -> list[str]:
        loaded = (each for each in registry.records() if each.state in (ModelState.LOADING, ModelState.READY))
        return [path for each in loaded for path in (each.checkpoint_path, each.adapter_path)]

    store = DownloadStore(settings.download_dir or settings.state_dir / "downloads", settings.download_bytes, in_use)
    return CheckpointSources(store, settings.allowed_protocols)
