"""Puts the safety service together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from services.inference.client import InferenceClient
from services.inference.control_key import read_control_key
from services.inference.engine_revision import engine_revision
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.opening import open_store
from services.runtime.errors import StartupError
from services.runtime.item_streams import StreamLimits
from services.runtime.prices import read_price_table
from services.runtime.security.audit import AuditLog
from services.runtime.server import HostedService
from services.safety.beside_guards import GuardBuilder, KeptAnswers, classifier_guard
from services.safety.cascade import CascadeMetrics
from services.safety.cascade_building import build_cascades
from services.safety.catalogue import GuardCatalogue
from services.safety.counted_guard import CountedGuard, VerdictMetrics
from services.safety.guard import Guard
from services.safety.guard_models import EMBEDDED_FOLDER, GuardModel, checkpoint_guard, embedded_guard
from services.safety.policies.catalogue import open_policies
from services.safety.priced_guard import PricedGuard
from services.safety.rolling import RollingLimits
from services.safety.service import FULL_NAME, hosted
from services.safety.settings import SafetySettings
from services.safety.variants import check_promoted

CACHE_FILE_NAME = "classified.sqlite3"
CACHE_NAMESPACE = "evalfleet:classified"


@asynccontextmanager
async def wire(settings: SafetySettings, metrics: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    """Yield the service; it is NOT_SERVING until Triton is there and has the guard.

    Raises:
        FleetError: the files of the guard, of a policy or of prices, or the key file, cannot be used.
    """
    key = await read_control_key(settings.triton_key_file)
    model = await asyncio.to_thread(_guard_model, settings)
    prices = await asyncio.to_thread(read_price_table, settings.price_table)
    async with InferenceClient(settings.triton_target, model_control_key=key) as client, AsyncExitStack() as stack:
        kept = await _open_cache(settings, metrics, stack)
        guard = classifier_guard(model, client, settings, kept, stack, prices)
        guards: list[Guard] = [guard]
        if settings.guards_file is not None:
            builder = GuardBuilder(settings.guards_file, settings, client, kept, stack, prices)
            guards += await builder.build(taken=model.about.name)
        if settings.price_table is not None:
            guards = [PricedGuard(each, prices) for each in guards]
        verdicts = VerdictMetrics(metrics)
        guards = [CountedGuard(each, verdicts) for each in guards]
        if settings.guards_file is not None:
            cascades = await build_cascades(settings.guards_file, guards, CascadeMetrics(metrics))
            guards += [CountedGuard(each, verdicts) for each in cascades]
        yield [_hosted(settings, GuardCatalogue(guards))]


def _hosted(settings: SafetySettings, guards: GuardCatalogue) -> HostedService:
    policies = open_policies(settings.policy_folders, guards)
    audit = AuditLog(settings.audit_file, service=FULL_NAME)
    for policy in policies.policies:
        audit.record("policy_loaded", name=policy.name, version=policy.version, digest=policy.reference.digest)
    return hosted(
        guards,
        policies,
        stream_limits=StreamLimits(settings.max_stream_items, settings.stream_item_timeout_seconds),
        rolling_limits=RollingLimits(settings.max_open_responses, settings.max_response_characters),
        audit=audit,
    )


async def _open_cache(
    settings: SafetySettings, registry: CollectorRegistry, stack: AsyncExitStack
) -> KeptAnswers | None:
    """Open the cache that the settings name, for all guards; it is closed with ``stack``."""
    metrics = CacheMetrics("safety", registry)
    store = await open_store(
        settings.verdict_cache_url,
        variable="EVALFLEET_VERDICT_CACHE_URL",
        default_path=settings.state_dir / CACHE_FILE_NAME,
        namespace=CACHE_NAMESPACE,
        max_bytes=settings.verdict_cache_max_bytes,
        lifetime_seconds=settings.verdict_cache_lifetime_seconds,
        timeout_seconds=settings.verdict_cache_timeout_seconds,
        metrics=metrics,
    )
    if store is None:
        return None
    stack.push_async_callback(store.close)
    return KeptAnswers(store, metrics, engine_revision(settings.engine_revision))


def _guard_model(settings: SafetySettings) -> GuardModel:
    if settings.guard_checkpoint is not None:
        if settings.guard_variant != "torch":
            raise StartupError(
                "EVALFLEET_GUARD_VARIANT is for the embedded guard; unset it beside EVALFLEET_GUARD_CHECKPOINT"
            )
        return checkpoint_guard(settings.guard_checkpoint, settings.guard_file, settings.guard_dtype)
    model = embedded_guard(settings.encoder_path, settings.guard_dtype, variant=settings.guard_variant)
    check_promoted(EMBEDDED_FOLDER, settings.guard_variant, model.about.reference.weights_digest)
    return model
