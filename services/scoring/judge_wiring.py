"""Puts together the scorer that asks models."""

from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from services.inference.engine_revision import engine_revision
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.opening import open_store
from services.runtime.channels import open_channel
from services.runtime.security.certificates import fleet_certificates
from services.scoring.judges.asking import Asking
from services.scoring.judges.known_answers import KnownAnswers
from services.scoring.judges.library import open_library
from services.scoring.judges.remote_model import RemoteJudgeModel
from services.scoring.scorers.llm_judge import LlmJudge
from services.scoring.settings import ScoringSettings

CACHE_FILE_NAME = "judged.sqlite3"
CACHE_NAMESPACE = "evalfleet:judged"


async def open_judge(settings: ScoringSettings, registry: CollectorRegistry, stack: AsyncExitStack) -> LlmJudge:
    """Return the scorer; what it opens is closed with ``stack``.

    Raises:
        FleetError: a rubric or the cache cannot be used.
    """
    library = open_library(settings.rubric_folders)
    metrics = CacheMetrics("judge", registry)
    store = await open_store(
        settings.judge_cache_url,
        variable="EVALFLEET_JUDGE_CACHE_URL",
        default_path=settings.state_dir / CACHE_FILE_NAME,
        namespace=CACHE_NAMESPACE,
        max_bytes=settings.judge_cache_max_bytes,
        lifetime_seconds=settings.judge_cache_lifetime_seconds,
        timeout_seconds=settings.judge_cache_timeout_seconds,
        metrics=metrics,
    )
    if store is not None:
        stack.push_async_callback(store.close)
    channel = open_channel(settings.generation_target, certificates=fleet_certificates(settings))
    await stack.enter_async_context(channel)
    model = RemoteJudgeModel(channel, timeout_seconds=settings.judge_timeout_seconds)
    known = KnownAnswers(store, metrics, engine_revision=engine_revision(settings.engine_revision))
    asking = Asking(model, known, max_concurrent=settings.judge_max_concurrent)
    return LlmJudge(asking, library, settings.judges)
