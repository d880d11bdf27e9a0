import asyncio
from pathlib import Path

import pytest

from services.generation.errors import ModelLostError
from services.generation.generator import Generator
from services.generation.registration import Registration
from services.generation.requests import (
    ContinuationScore,
    GenerationRequest,
    GenerationResult,
    Sampling,
    ScoringRequest,
    Turn,
    Usage,
)
from services.generation.sample_seeds import sample_seed
from services.runtime.deadlines import CHILD_MARGIN_SECONDS, bind_deadline, remaining_seconds
from services.runtime.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from tests.fakes.generation_domain import Domain, StartDomain

SAMPLED = Sampling(temperature=1.0, seed=7)


@pytest.fixture
async def domain(start_domain: StartDomain, checkpoint: Path) -> Domain:
    domain = await start_domain(reconcile=False)
    await domain.registrar.create(Registration(str(checkpoint), "m"))
    return domain


def texts(result: GenerationResult | BaseException) -> list[str]:
    assert isinstance(result, GenerationResult), result
    return [completion.text.split("|", 1)[1] for completion in result.completions]


async def test_samples_come_in_order_with_seeds_of_their_own(domain: Domain) -> None:
    result = await domain.generator.generate(GenerationRequest("m", "hi", SAMPLED, sample_count=3))
    assert texts(result) == [f"hi|{sample_seed(7, index)}" for index in range(3)]
    more = await domain.generator.generate(GenerationRequest("m", "hi", SAMPLED, sample_count=5))
    assert texts(more)[:3] == texts(result)


async def test_usage_counts_the_prompt_once_and_all_answers(domain: Domain) -> None:
    result = await domain.generator.generate(GenerationRequest("m", "hi", SAMPLED, sample_count=3, truncate=True))
    generated = sum(completion.token_count for completion in result.completions)
    assert result.usage == Usage(2, generated, 1.5, computed_prompt_tokens=6, computed_completion_tokens=generated)
    assert result.truncated
    assert result.model_digest == domain.lifecycle.get("m").digest


@pytest.mark.parametrize("sampling", [Sampling(seed=7), Sampling(temperature=1.0)])
async def test_greedy_and_unseeded_requests_send_no_seed(domain: Domain, sampling: Sampling) -> None:
    await domain.generator.generate(GenerationRequest("m", "hi", sampling))
    assert domain.backend.samplings[0].seed is None


async def test_a_conversation_reaches_the_engine_as_messages(domain: Domain) -> None:
    result = await domain.generator.generate(GenerationRequest("m", (Turn("system", "s"), Turn("user", "u"))))
    assert texts(result) == ["system: s\nuser: u|None"]


async def test_scores_come_back_in_order(domain: Domain) -> None:
    result = await domain.generator.score(ScoringRequest("m", "ctx", ("a", "bcd")))
    assert list(result.scores) == [ContinuationScore(-1.0, True, 1), ContinuationScore(-3.0, False, 3)]
    assert result.usage == Usage(3, 4, 0.25, computed_prompt_tokens=3, computed_completion_tokens=4)


async def test_a_batch_keeps_order_and_its_bad_items_to_themselves(domain: Domain) -> None:
    too_long = FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")
    domain.backend.failures["long"] = too_long
    invalid = InvalidArgumentError("bad")
    requests: list[GenerationRequest | BaseException] = [
        GenerationRequest("m", "a"),
        invalid,
        GenerationRequest("n", "b"),
        GenerationRequest("m", "long"),
        GenerationRequest("m", "c"),
    ]
    outcomes = await domain.generator.generate_batch(requests)
    assert texts(outcomes[0]) == ["a|None"]
    assert outcomes[1] is invalid
    assert isinstance(outcomes[2], NotFoundError)
    assert outcomes[3] is too_long
    assert texts(outcomes[4]) == ["c|None"]


async def test_concurrency_is_bounded_per_call_and_over_all(domain: Domain) -> None:
    domain.backend.gate = asyncio.Event()
    calls = [
        asyncio.create_task(domain.generator.generate_batch([GenerationRequest("m", str(i)) for i in range(20)]))
        for _ in range(3)
    ]
    await domain.backend.until(lambda: domain.backend.in_flight == 8)
    running = domain.metrics.get_sample_value("evalfleet_generation_engine_requests_running")
    waiting = domain.metrics.get_sample_value("evalfleet_generation_engine_requests_waiting")
    assert (running, waiting) == (8, 52)
    domain.backend.gate.set()
    outcomes = [outcome for call in calls for outcome in await call]
    assert domain.backend.most_in_flight == 8
    assert [texts(outcome) for outcome in outcomes] == [[f"{i}|None"] for i in range(20)] * 3
    domain.backend.most_in_flight, domain.backend.gate = 0, None
    await domain.generator.generate_batch([GenerationRequest("m", str(i)) for i in range(20)])
    assert domain.backend.most_in_flight == 4


async def test_the_first_failed_sample_cancels_the_others(domain: Domain) -> None:
    domain.backend.failures["bad"] = FailedPreconditionError("no")
    with pytest.raises(FailedPreconditionError):
        await domain.generator.generate(GenerationRequest("m", "bad", SAMPLED, sample_count=100))
    assert len(domain.backend.samplings) < 100
    assert domain.backend.in_flight == 0


@pytest.mark.parametrize("as_batch", [False, True])
async def test_a_cancelled_call_cancels_the_engines_work(domain: Domain, as_batch: bool) -> None:
    domain.backend.gate = asyncio.Event()
    request = GenerationRequest("m", "hi", SAMPLED, sample_count=2)
    generator: Generator = domain.generator
    call = asyncio.ensure_future(generator.generate_batch([request]) if as_batch else generator.generate(request))
    await domain.backend.until(lambda: domain.backend.in_flight == 2)
    call.cancel()
    await asyncio.wait([call])
    assert (domain.backend.cancelled, domain.backend.in_flight) == (2, 0)
    domain.backend.gate = None
    assert texts(await generator.generate(GenerationRequest("m", "next"))) == ["next|None"]


async def test_the_engine_gets_what_is_left_of_the_deadline(domain: Domain) -> None:
    left: list[float] = []

    def look() -> None:
        seconds = remaining_seconds()
        assert seconds is not None
        left.append(seconds)

    await domain.generator.generate(GenerationRequest("m", "hi"))
    with bind_deadline(15.0):
        look()
        await domain.generator.generate(GenerationRequest("m", "hi"))
        look()
        await domain.generator.generate_batch([GenerationRequest("m", "hi")])
        look()
    unbounded, bounded, batched = domain.backend.timeouts
    before, between, after = left
    assert unbounded == 60.0
    assert between - 2 * CHILD_MARGIN_SECONDS < bounded < before
    # A batch keeps 5 % back to report its slow items.
    assert after - 0.05 * between - 2 * CHILD_MARGIN_SECONDS < batched < 0.95 * between


async def test_a_batch_returns_what_is_done_when_time_runs_out(domain: Domain) -> None:
    domain.backend.gate = asyncio.Event()
    requests = [GenerationRequest("m", "slow"), GenerationRequest("unknown", "x")]
    with bind_deadline(0.2):
        slow, unknown = await domain.generator.generate_batch(requests)
    assert isinstance(slow, TimeoutError)
    assert isinstance(unknown, NotFoundError)
    assert domain.backend.in_flight == 0


@pytest.mark.parametrize("loss", ["models", "engine"])
async def test_requests_survive_the_loss_of_their_model(domain: Domain, loss: str) -> None:
    requests = [GenerationRequest("m", str(i)) for i in range(6)]
    domain.backend.gate = asyncio.Event()
    call = asyncio.create_task(domain.generator.generate_batch(requests))
    await domain.backend.asked.wait()
    if loss == "models":
        domain.backend.loaded.clear()
    else:
        domain.backend.crash_engines()
    domain.backend.gate.set()
    assert [texts(outcome) for outcome in await call] == [[f"{i}|None"] for i in range(6)]
    assert len(domain.backend.loads) == 2


async def test_requests_survive_a_server_that_comes_back(domain: Domain) -> None:
    domain.backend.kill()
    call = asyncio.create_task(domain.generator.score(ScoringRequest("m", "", ("a",))))
    await domain.backend.asked.wait()
    domain.backend.is_up = True
    assert len((await call).scores) == 1


async def test_a_request_that_always_kills_its_engine_is_given_up(domain: Domain) -> None:
    domain.backend.failures["poison"] = ModelLostError("dead", reason="ENGINE_CRASHED", engine_crashed=True)
    with pytest.raises(ModelLostError) as caught:
        await domain.generator.generate(GenerationRequest("m", "poison"))
    assert caught.value.reason == "ENGINE_CRASHED"
    assert caught.value.retry_after_seconds
    assert len(domain.backend.samplings) == 3
    assert texts(await domain.generator.generate(GenerationRequest("m", "fine"))) == ["fine|None"]
