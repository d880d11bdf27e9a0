"""The cache in front of the real generator, on real stores; only the inference server is a fake that counts."""

import asyncio
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.generation.cache.answer_cache import AnswerCache
from services.generation.cache.cached_generator import CachedGenerator
from services.generation.cache.dated_templates import DatedTemplates
from services.generation.cache.key import ModelIdentity, sample_key
from services.generation.registration import Registration
from services.generation.requests import (
    CacheMode,
    CacheOutcome,
    GenerationRequest,
    GenerationResult,
    Prompt,
    ScoringRequest,
    TextPiece,
    Turn,
    Usage,
)
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore, NewEntry
from services.runtime.errors import FailedPreconditionError, NotFoundError
from tests.fakes.generation_domain import Domain
from tests.fakes.inference_backend import write_checkpoint
from tests.unit.generation.cache.caching import (
    CHAT,
    REQUEST,
    SAMPLED,
    Register,
    computed,
    texts,
    wrap,
)

CHANGES = {
    "system prompt": replace(REQUEST, prompt=(Turn("system", "be long"), CHAT[1])),
    "prompt": replace(REQUEST, prompt=(CHAT[0], Turn("user", "hi!"))),
    "stop": replace(REQUEST, sampling=replace(SAMPLED, stop=("\n\n",))),
    "temperature": replace(REQUEST, sampling=replace(SAMPLED, temperature=0.9)),
    "top_p": replace(REQUEST, sampling=replace(SAMPLED, top_p=0.8)),
    "max_tokens": replace(REQUEST, sampling=replace(SAMPLED, max_tokens=9)),
    "seed": replace(REQUEST, sampling=replace(SAMPLED, seed=8)),
    "sample index": replace(REQUEST, sample_index=1),
}
CHECKPOINTS: dict[str, dict[str, str]] = {
    "weights": {"weights": "x"},
    "tokenizer": {"tokenizer__json": '{"other": 1}'},
    "chat template": {"chat_template__jinja": "{{ messages }}"},
    "dtype": {"dtype": "bfloat16"},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_request_misses_and_a_repeat_hits(
    domain: Domain, cached: CachedGenerator, store: CacheStore, change: str
) -> None:
    first = await cached.generate(REQUEST)
    changed = await cached.generate(CHANGES[change])
    assert (first.is_cached, changed.is_cached, computed(domain)) == (False, False, 2)
    await store.flush()
    for request, answer in ((REQUEST, first), (CHANGES[change], changed)):
        again = await cached.generate(request)
        assert (again.is_cached, texts(again), computed(domain)) == (True, texts(answer), 2)


@pytest.mark.parametrize("change", CHECKPOINTS)
async def test_a_changed_checkpoint_misses_and_a_repeat_hits(
    domain: Domain, cached: CachedGenerator, register: Register, store: CacheStore, change: str
) -> None:
    await register("other", **CHECKPOINTS[change])
    await cached.generate(REQUEST)
    other = await cached.generate(replace(REQUEST, model_id="other"))
    assert (other.is_cached, computed(domain)) == (False, 2)
    await store.flush()
    again = await cached.generate(replace(REQUEST, model_id="other"))
    assert (again.is_cached, again.model_digest, computed(domain)) == (True, other.model_digest, 2)


async def test_the_same_content_under_another_name_hits(
    domain: Domain, cached: CachedGenerator, register: Register
) -> None:
    await register("twin")
    await cached.generate(REQUEST)
    assert (await cached.generate(replace(REQUEST, model_id="twin"))).is_cached


async def test_another_engine_revision_misses(
    domain: Domain, cached: CachedGenerator, store: CacheStore, metrics: CacheMetrics
) -> None:
    await cached.generate(REQUEST)
    assert not (await wrap(domain, store, metrics, "r2").generate(REQUEST)).is_cached
    assert (await wrap(domain, store, metrics, "r1").generate(REQUEST)).is_cached


async def test_scores_are_kept_as_they_were(domain: Domain, cached: CachedGenerator, store: CacheStore) -> None:
    request = ScoringRequest("m", "ctx", ("a", "bcd"))
    fresh = await cached.score(request)
    await store.flush()
    again = await cached.score(request)
    assert (fresh.is_cached, again.is_cached) == (False, True)
    assert list(again.scores) == list(fresh.scores)
    assert again.usage == Usage(3, 4, 0.0, cache_saved_tokens=7)
    assert not (await cached.score(replace(request, continuations=("a", "bce")))).is_cached


async def test_four_samples_after_two_compute_two(domain: Domain, cached: CachedGenerator) -> None:
    two = await cached.generate(replace(REQUEST, sample_count=2))
    four = await cached.generate(replace(REQUEST, sample_count=4))
    assert computed(domain) == 4
    assert [each.cached for each in four.completions] == [True, True, False, False]
    assert texts(four)[:2] == texts(two)
    assert not four.is_cached
    prompt, generated = four.usage.prompt_tokens, [each.token_count for each in four.completions]
    assert four.usage == Usage(
        prompt_tokens=prompt,
        completion_tokens=sum(generated),
        engine_seconds=1.0,
        computed_prompt_tokens=2 * prompt,
        computed_completion_tokens=sum(generated[2:]),
        cache_saved_tokens=2 * prompt + sum(generated[:2]),
    )
    plain = await domain.generator.generate(replace(REQUEST, sample_count=4))
    assert texts(plain) == texts(four), "the same samples as without a cache"


async def test_sampling_without_a_seed_is_never_kept(domain: Domain, cached: CachedGenerator) -> None:
    request = replace(REQUEST, sampling=replace(SAMPLED, seed=None), explain_cache=True)
    for expected in (1, 2):
        result = await cached.generate(request)
        assert (result.is_cached, computed(domain)) == (False, expected)
        assert result.cache is not None
        assert result.cache.outcome is CacheOutcome.NOT_CACHEABLE


@pytest.mark.parametrize("kind", ["generate", "score"])
async def test_bypass_and_refresh(domain: Domain, cached: CachedGenerator, kind: str) -> None:
    async def ask(mode: CacheMode) -> bool:
        if kind == "score":
            return (await cached.score(ScoringRequest("m", "c", ("a",), cache_mode=mode))).is_cached
        return (await cached.generate(replace(REQUEST, cache_mode=mode))).is_cached

    assert not await ask(CacheMode.BYPASS)
    assert not await ask(CacheMode.USE), "a bypass stores nothing"
    assert await ask(CacheMode.USE)
    assert not await ask(CacheMode.BYPASS), "a bypass reads nothing"
    assert not await ask(CacheMode.REFRESH), "a refresh reads nothing"
    assert await ask(CacheMode.USE)


async def test_a_refresh_replaces_what_was_there(domain: Domain, cached: CachedGenerator, store: CacheStore) -> None:
    record = domain.lifecycle.get("m")
    key = sample_key(ModelIdentity(record.digest, record.dtype, record.engine, "r1"), REQUEST, 0)
    before = await cached.generate(REQUEST)
    await store.put(NewEntry(key.digest, b"damaged"))
    after = await cached.generate(replace(REQUEST, cache_mode=CacheMode.REFRESH))
    assert texts(after) == texts(before)
    assert (await cached.generate(REQUEST)).is_cached


async def test_a_damaged_entry_is_noticed_counted_and_computed_again(
    domain: Domain, cached: CachedGenerator, store: CacheStore, registry: CollectorRegistry
) -> None:
    first = await cached.generate(REQUEST)
    record = domain.lifecycle.get("m")
    key = sample_key(ModelIdentity(record.digest, record.dtype, record.engine, "r1"), REQUEST, 0)
    await store.flush()
    entry = bytearray((await store.get_many([key.digest]))[key.digest])
    entry[-1] ^= 1
    await store.put(NewEntry(key.digest, bytes(entry)))
    await store.flush()
    again = await cached.generate(replace(REQUEST, explain_cache=True))
    assert again.cache is not None
    assert (again.is_cached, again.cache.outcome, texts(again)) == (False, CacheOutcome.CORRUPT, texts(first))
    assert registry.get_sample_value("evalfleet_test_cache_corrupt_entries_total") == 1
    await store.flush()
    assert (await cached.generate(REQUEST)).is_cached


async def test_failures_are_not_kept(domain: Domain, cached: CachedGenerator) -> None:
    request = GenerationRequest("m", "bad")
    domain.backend.failures["bad"] = FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")
    for _ in range(2):
        with pytest.raises(FailedPreconditionError):
            await cached.generate(request)
    domain.backend.failures.clear()
    assert not (await cached.generate(request)).is_cached
    assert computed(domain) == 3


async def test_a_batch_keeps_order_and_its_bad_items_to_themselves(domain: Domain, cached: CachedGenerator) -> None:
    bad = FailedPreconditionError("bad")
    await cached.generate(GenerationRequest("m", "a"))
    requests: list[GenerationRequest | BaseException]
    requests = [GenerationRequest("m", "a"), bad, GenerationRequest("unknown", "x"), GenerationRequest("m", "b")]
    first, second, third, fourth = await cached.generate_batch(requests)
    assert isinstance(first, GenerationResult)
    assert isinstance(fourth, GenerationResult)
    assert (first.is_cached, fourth.is_cached) == (True, False)
    assert second is bad
    assert isinstance(third, NotFoundError)


async def test_what_is_known_needs_no_loaded_model(domain: Domain, cached: CachedGenerator) -> None:
    await cached.generate(REQUEST)
    domain.backend.kill()
    assert (await cached.generate(REQUEST)).is_cached


async def test_an_explanation_names_what_differs_from_the_nearest_entry(
    domain: Domain, cached: CachedGenerator, register: Register
) -> None:
    async def explained(request: GenerationRequest) -> tuple[CacheOutcome, tuple[str, ...], bool]:
        result = await cached.generate(replace(request, explain_cache=True))
        assert result.cache is not None
        assert len(result.cache.key) == 64
        return result.cache.outcome, result.cache.differing_parts, result.cache.nearest_time is not None

    assert await explained(REQUEST) == (CacheOutcome.MISS, (), False)
    assert await explained(REQUEST) == (CacheOutcome.HIT, (), False)
    hotter = replace(REQUEST, sampling=replace(SAMPLED, temperature=1.5))
    assert await explained(hotter) == (CacheOutcome.MISS, ("temperature",), True)
    both = replace(hotter, sampling=replace(hotter.sampling, top_p=0.5))
    assert await explained(both) == (CacheOutcome.MISS, ("top_p",), True), "the nearest of several entries"
    other_prompt = replace(REQUEST, prompt=(CHAT[0], Turn("user", "something else")))
    assert await explained(other_prompt) == (CacheOutcome.MISS, ("prompt",), True)
    await register("other", weights="x")
    assert await explained(replace(REQUEST, model_id="other")) == (CacheOutcome.MISS, ("model",), True)
    refreshed = replace(REQUEST, cache_mode=CacheMode.REFRESH)
    assert await explained(refreshed) == (CacheOutcome.REFRESHED, (), False)


async def test_an_explanation_is_about_the_first_sample_that_was_not_there(
    domain: Domain, cached: CachedGenerator
) -> None:
    await cached.generate(replace(REQUEST, sample_count=2))
    result = await cached.generate(replace(REQUEST, sample_count=4, explain_cache=True))
    assert result.cache is not None
    assert (result.cache.outcome, result.cache.sample_index) == (CacheOutcome.MISS, 2)
    assert result.cache.differing_parts == ("sample_index",)
    scored = await cached.score(ScoringRequest("m", "c", ("a",), explain_cache=True))
    assert scored.cache is not None
    assert scored.cache.outcome is CacheOutcome.MISS


async def test_lookups_are_counted_by_outcome(
    domain: Domain, cached: CachedGenerator, registry: CollectorRegistry
) -> None:
    await cached.generate(REQUEST)
    await cached.generate(REQUEST)
    for outcome in ("hit", "miss"):
        assert registry.get_sample_value("evalfleet_test_cache_lookups_total", {"outcome": outcome}) == 1


async def test_a_model_that_was_replaced_while_it_answered_is_kept_under_its_own_digest(
    domain: Domain, cached: CachedGenerator, register: Register, tmp_path: Path
) -> None:
    domain.backend.gate = asyncio.Event()
    call = asyncio.create_task(cached.generate(REQUEST))
    await domain.backend.until(lambda: domain.backend.in_flight == 1)
    await domain.lifecycle.delete("m")
    await register("m", weights="replaced")
    domain.backend.gate.set()
    result = await call
    assert result.model_digest == domain.lifecycle.get("m").digest
    again = await cached.generate(REQUEST)
    assert (again.is_cached, again.model_digest) == (True, result.model_digest)


async def test_conversations_of_a_template_that_prints_the_day_are_kept_for_the_day(
    domain: Domain, register: Register, store: CacheStore, metrics: CacheMetrics
) -> None:
    await register("dated", chat_template__jinja="{{ strftime_now('%d %b %Y') }}")
    await register("plain", chat_template__jinja="{{ messages }}")
    today = date(2026, 1, 1)
    cache = AnswerCache(store, metrics)
    templates = DatedTemplates(lambda: today)
    cached = CachedGenerator(domain.generator, domain.lifecycle, cache, engine_revision="r", templates=templates)

    async def is_cached(model: str, prompt: Prompt) -> bool:
        await store.flush()
        generated = await cached.generate(replace(REQUEST, model_id=model, prompt=prompt))
        scored = await cached.score(ScoringRequest(model, prompt, ("a",)))
        assert generated.is_cached == scored.is_cached
        return generated.is_cached

    prompts: tuple[Prompt, ...] = (CHAT, "a text")
    asked = [(model, prompt) for model in ("dated", "plain") for prompt in prompts]
    assert [await is_cached(*each) for each in asked] == [False] * 4
    assert [await is_cached(*each) for each in asked] == [True] * 4
    today = date(2026, 1, 2)
    assert [await is_cached(*each) for each in asked] == [False, True, True, True]
    today = date(2026, 1, 1)
    assert await is_cached("dated", CHAT)


async def test_a_template_that_cannot_be_read_any_more_counts_as_one_that_prints_the_day(domain: Domain) -> None:
    folder = write_checkpoint(domain.root / "gone")
    record = await domain.registrar.create(Registration(str(folder), "gone"))
    shutil.rmtree(folder)
    assert await DatedTemplates(lambda: date(2026, 1, 1)).day(record) == "2026-01-01"


async def test_an_answer_that_is_watched_is_kept_and_found(domain: Domain, cached: CachedGenerator) -> None:
    async def watched(request: GenerationRequest) -> tuple[str, GenerationResult]:
        *pieces, result = [piece async for piece in cached.generate_pieces(request)]
        assert isinstance(result, GenerationResult)
        return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece)), result

    text, first = await watched(REQUEST)
    again_text, again = await watched(REQUEST)
    assert (first.is_cached, again.is_cached, again_text) == (False, True, text)
    assert texts(again) == texts(first)
    assert again.usage.cache_saved_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    assert (await cached.generate(REQUEST)).is_cached
    for mode, outcome in ((CacheMode.BYPASS, CacheOutcome.BYPASSED), (CacheMode.REFRESH, CacheOutcome.REFRESHED)):
        result = (await watched(replace(REQUEST, cache_mode=mode, explain_cache=True)))[1]
        assert result.cache is not None
        assert (result.is_cached, result.cache.outcome) == (False, outcome)
    unseeded = replace(REQUEST, sampling=replace(SAMPLED, seed=None), explain_cache=True)
    for _ in range(2):
        result = (await watched(unseeded))[1]
        assert result.cache is not None
        assert (result.is_cached, result.cache.outcome) == (False, CacheOutcome.NOT_CACHEABLE)
