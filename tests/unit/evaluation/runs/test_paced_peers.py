"""Each model and each service is given as many items as it takes."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.evaluation.errors import ScoringUnavailableError
from services.evaluation.items import PlainPrompt, Prompt
from services.evaluation.judging_specification import ScorerUse
from services.evaluation.runs.model_changes import ModelContent
from services.evaluation.runs.paced_peers import PacedGenerator, PacedScorerPanel, PeerMetrics
from services.evaluation.runs.peers import (
    ContinuationScores,
    GeneratedText,
    GenerationOptions,
    ScoredOutput,
    ScorerCall,
)
from services.evaluation.runs.retry import wait_out
from services.runtime.adaptive_limit import AdaptiveLimit
from services.runtime.errors import FleetError, ResourceExhaustedError, UnavailableError
from services.runtime.usage import Usage

OPTIONS = GenerationOptions(max_tokens=1)
PROMPT = PlainPrompt("2 + 2 =")


class SmallGenerator:
    """A fake generation service that refuses what exceeds ``room`` items at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.in_flight = 0
        self.answered = 0
        self.refused = 0

    async def model_digest(self, model: str) -> str:
        return model

    async def model_content(self, model: str) -> ModelContent:
        return ModelContent(model)

    async def generate(self, model: str, prompt: Prompt, options: GenerationOptions) -> list[GeneratedText]:
        if self.in_flight >= self.room:
            self.refused += 1
            raise ResourceExhaustedError("too much at once", retry_after_seconds=0.0)
        self.in_flight += 1
        try:
            await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        self.answered += 1
        return [GeneratedText("4", Usage(), model, False)]

    async def score(
        self, model: str, context: Prompt, continuations: Sequence[str], *, truncate_left: bool
    ) -> ContinuationScores:
        raise NotImplementedError


async def test_what_a_small_service_refuses_is_repeated_until_all_is_answered() -> None:
    service = SmallGenerator(room=5)
    paced = PacedGenerator(service, AdaptiveLimit)

    async def ask() -> None:
        await wait_out(lambda: paced.generate("models/a", PROMPT, OPTIONS), patience_seconds=60)

    await asyncio.gather(*(ask() for _ in range(500)))
    assert service.answered == 500
    assert service.refused < 500


async def test_one_slow_model_holds_no_other_up() -> None:
    full = SmallGenerator(room=0)
    paced = PacedGenerator(full, AdaptiveLimit)
    for _ in range(30):
        with pytest.raises(ResourceExhaustedError):
            await paced.generate("models/a", PROMPT, OPTIONS)
    full.room = 1000
    await paced.generate("models/b", PROMPT, OPTIONS)
    assert paced.smallest_limit < 256
    assert paced._limit("models/b").limit == 256


async def test_the_limits_are_shown() -> None:
    registry = CollectorRegistry()
    paced = PacedGenerator(SmallGenerator(room=1), AdaptiveLimit)
    PeerMetrics(registry).show("generation", lambda: paced.smallest_limit)
    assert b'evalfleet_peer_items_limit{service="generation"} 0.0' in generate_latest(registry)
    await paced.generate("models/a", PROMPT, OPTIONS)
    assert b'evalfleet_peer_items_limit{service="generation"} 256.0' in generate_latest(registry)


async def test_what_comes_of_items_is_counted_and_how_long_the_oldest_waits() -> None:
    registry = CollectorRegistry()
    told = PeerMetrics(registry).counter("generation")
    assert b'evalfleet_peer_items_total{code="UNAVAILABLE",service="generation"} 0.0' in generate_latest(registry)
    now = 0.0
    full = SmallGenerator(room=0)
    paced = PacedGenerator(full, lambda: AdaptiveLimit(first=1, clock=lambda: now, told=told))
    with pytest.raises(ResourceExhaustedError):
        await paced.generate("models/a", PROMPT, OPTIONS)
    full.room = 1
    asked = [asyncio.create_task(paced.generate("models/a", PROMPT, OPTIONS)) for _ in range(2)]
    await asyncio.sleep(0)  # both have asked: one is being answered, one waits
    now = 7.0
    assert paced.work().oldest_wait_seconds == 7.0
    await asyncio.gather(*asked)
    assert paced.work().oldest_wait_seconds == 0.0
    shown = generate_latest(registry)
    assert b'evalfleet_peer_items_total{code="RESOURCE_EXHAUSTED",service="generation"} 1.0' in shown
    assert b'evalfleet_peer_items_total{code="OK",service="generation"} 2.0' in shown


async def test_scorers_that_are_away_are_told_apart_from_models() -> None:
    class Away:
        async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput | FleetError]:
            raise NotImplementedError

        async def check(self, uses: Sequence[ScorerUse]) -> None:
            raise UnavailableError("nobody is there", retry_after_seconds=2.0)

    with pytest.raises(ScoringUnavailableError) as caught:
        await PacedScorerPanel(Away(), AdaptiveLimit()).check([])
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("UNAVAILABLE", 2.0)
