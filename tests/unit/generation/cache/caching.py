"""A cached generator as its tests make and ask it."""

from collections.abc import Awaitable, Callable

from services.generation.cache.answer_cache import AnswerCache
from services.generation.cache.cached_generator import CachedGenerator
from services.generation.requests import (
    GenerationRequest,
    GenerationResult,
    Sampling,
    Turn,
)
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore
from tests.fakes.generation_domain import Domain

SAMPLED = Sampling(max_tokens=8, temperature=1.0, top_p=0.9, stop=("\n",), seed=7)
CHAT = (Turn("system", "be brief"), Turn("user", "hi"))
REQUEST = GenerationRequest("m", CHAT, SAMPLED)

Register = Callable[..., Awaitable[None]]


def wrap(domain: Domain, store: CacheStore, metrics: CacheMetrics, revision: str = "r1") -> CachedGenerator:
    cache = AnswerCache(store, metrics)
    return CachedGenerator(domain.generator, domain.lifecycle, cache, engine_revision=revision)


def computed(domain: Domain) -> int:
    return len(domain.backend.samplings)


def waiting_for_answers(cached: CachedGenerator) -> list[int]:
    """How many callers wait for each answer that is looked up or computed."""
    return [len(flight.waiting) for flight in cached._cache._flights._flights.values()]


def texts(result: GenerationResult) -> list[str]:
    return [each.text for each in result.completions]
