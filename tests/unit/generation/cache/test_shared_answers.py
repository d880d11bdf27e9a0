"""Callers who ask the same at once share one answer, and none of them has the trouble of another."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.generation.cache.cached_generator import CachedGenerator
from services.generation.cost.accounting import AccountedGenerator
from services.generation.cost.caller_ledger import CallerLedger
from services.generation.errors import ModelDeletedError, ModelNotReadyError
from services.generation.requests import (
    CacheMode,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
)
from services.runtime.calls import bind_ids
from services.runtime.deadlines import bind_deadline
from services.runtime.prices import FREE
from tests.fakes.generation_domain import Domain
from tests.patience import GROWING_SECONDS, has_begun, until
from tests.unit.generation.cache.caching import (
    REQUEST,
    SAMPLED,
    Register,
    computed,
    texts,
    waiting_for_answers,
)


async def test_sixty_four_identical_requests_cause_one_inference(domain: Domain, cached: CachedGenerator) -> None:
    domain.backend.gate = asyncio.Event()
    calls = [asyncio.create_task(cached.generate(REQUEST)) for _ in range(64)]
    await domain.backend.until(lambda: domain.backend.in_flight == 1)
    domain.backend.gate.set()
    results = await asyncio.gather(*calls)
    assert computed(domain) == 1
    assert len({tuple(texts(result)) for result in results}) == 1
    assert sum(result.is_cached for result in results) == 63
    assert sum(result.usage.computed_completion_tokens for result in results) == results[0].usage.completion_tokens
    assert sum(result.usage.engine_seconds for result in results) == 0.5


async def test_the_work_stops_when_nobody_waits_any_more(domain: Domain, cached: CachedGenerator) -> None:
    domain.backend.gate = asyncio.Event()
    calls = [asyncio.create_task(cached.generate(REQUEST)) for _ in range(3)]
    await until(lambda: waiting_for_answers(cached) == [3])
    await domain.backend.until(lambda: domain.backend.in_flight == 1)
    for call in calls[:2]:
        call.cancel()
    await asyncio.wait(calls[:2])
    assert (domain.backend.cancelled, domain.backend.in_flight) == (0, 1)
    calls[2].cancel()
    await asyncio.wait(calls)
    assert (domain.backend.cancelled, domain.backend.in_flight) == (1, 0)


async def test_what_goes_on_for_others_is_paid_for_by_who_began_it(
    domain: Domain, cached: CachedGenerator, tmp_path: Path
) -> None:
    ledger = await CallerLedger.open(tmp_path / "ledger")
    accounted = AccountedGenerator(cached, FREE, ledger, CollectorRegistry())

    async def ask(caller: str) -> GenerationResult:
        with bind_ids(caller=caller):
            return await accounted.generate(REQUEST)

    domain.backend.gate = asyncio.Event()
    first = asyncio.create_task(ask("first"))
    await domain.backend.until(lambda: domain.backend.in_flight == 1)
    second = asyncio.create_task(ask("second"))
    await until(lambda: waiting_for_answers(cached) == [2])
    first.cancel()
    await asyncio.wait([first])
    [left] = await ledger.callers()
    domain.backend.gate.set()
    result = await second
    began, joined = await ledger.callers()
    await ledger.close()
    tokens = result.usage.prompt_tokens + result.usage.completion_tokens
    assert (left.caller, left.usage.computed_completion_tokens, left.requests) == ("first", 0, 1)
    assert (began.caller, began.usage.computed_prompt_tokens + began.usage.computed_completion_tokens) == (
        "first",
        tokens,
    )
    assert (began.requests, joined.requests, joined.usage.cache_saved_tokens) == (1, 1, tokens)
    assert joined.usage.computed_prompt_tokens == 0


async def test_a_hurried_caller_does_not_fail_a_patient_one(domain: Domain, cached: CachedGenerator) -> None:
    domain.backend.gate = asyncio.Event()
    for seconds in GROWING_SECONDS:
        with bind_deadline(seconds):
            hurried = asyncio.create_task(cached.generate_batch([REQUEST]))
        if await has_begun(hurried, domain.backend.asked):
            break
    patient = asyncio.create_task(cached.generate(REQUEST))
    [outcome] = await hurried
    assert isinstance(outcome, TimeoutError)
    domain.backend.gate.set()
    assert len((await patient).completions) == 1


async def hurried_and_patient(
    cached: CachedGenerator, seconds: float
) -> tuple["asyncio.Task[GenerationResult]", "asyncio.Task[GenerationResult]"]:
    """Let a caller with a deadline begin, and one without join it; the first may be done if the time was too short."""
    with bind_deadline(seconds):
        hurried = asyncio.create_task(cached.generate(REQUEST))
    await until(lambda: hurried.done() or waiting_for_answers(cached) == [1])
    patient = asyncio.create_task(cached.generate(REQUEST))
    await until(lambda: hurried.done() or waiting_for_answers(cached) == [2])
    return hurried, patient


async def test_a_hurried_caller_who_cannot_wait_for_the_model_does_not_fail_a_patient_one(
    domain: Domain, cached: CachedGenerator
) -> None:
    domain.backend.kill()
    domain.backend.is_up = True
    domain.backend.load_gate = asyncio.Event()
    domain.backend.loading.clear()
    await domain.backend.loading.wait()
    for seconds in GROWING_SECONDS:
        hurried, patient = await hurried_and_patient(cached, seconds)
        if not hurried.done():
            break
        patient.cancel()
        await asyncio.wait([patient])
    with pytest.raises(ModelNotReadyError):
        await hurried
    domain.backend.load_gate.set()
    assert len((await patient).completions) == 1


async def test_the_engine_is_asked_for_no_more_than_a_calls_share(domain: Domain, cached: CachedGenerator) -> None:
    domain.backend.gate = asyncio.Event()
    call = asyncio.create_task(cached.generate_batch([GenerationRequest("m", str(i)) for i in range(20)]))
    await domain.backend.until(lambda: domain.backend.in_flight == 4)
    domain.backend.gate.set()
    await call
    assert domain.backend.most_in_flight == 4


@pytest.mark.parametrize("kind", ["generate", "score"])
async def test_who_shares_an_answer_is_not_told_that_another_model_gave_it(
    domain: Domain, cached: CachedGenerator, register: Register, kind: str
) -> None:
    async def ask() -> GenerationResult | ScoringResult:
        return await (
            cached.generate(REQUEST) if kind == "generate" else cached.score(ScoringRequest("m", "c", ("a",)))
        )

    domain.backend.gate = asyncio.Event()
    first = asyncio.create_task(ask())
    await domain.backend.until(lambda: domain.backend.in_flight == 1)
    second = asyncio.create_task(ask())
    await until(lambda: waiting_for_answers(cached) == [2])
    await domain.lifecycle.delete("m")
    await register("m", weights="replaced")
    domain.backend.gate.set()
    assert (await first).model_digest == domain.lifecycle.get("m").digest
    with pytest.raises(ModelDeletedError):
        await second


async def test_items_of_one_stream_share_a_calls_places(domain: Domain, cached: CachedGenerator) -> None:
    domain.backend.gate = asyncio.Event()
    stream = cached.for_one_call()
    requests = [GenerationRequest("m", str(index), replace(SAMPLED), sample_count=3) for index in range(7)]
    items = [asyncio.create_task(stream.generate(each)) for each in requests]
    items += [asyncio.create_task(stream.generate(replace(requests[0], cache_mode=CacheMode.BYPASS)))]
    scores = asyncio.create_task(stream.score(ScoringRequest("m", "c", ("a",))))
    await domain.backend.until(lambda: domain.backend.in_flight == 4)
    for _ in range(20):
        await asyncio.sleep(0)
    domain.backend.gate.set()
    await asyncio.gather(*items, scores)
    assert domain.backend.most_in_flight == 4
