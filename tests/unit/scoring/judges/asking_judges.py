"""Judges with a fake model, and how tests ask them."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore
from services.runtime.errors import (
    FleetError,
)
from services.scoring.contract import Score, ScoringItem, TextOutput
from services.scoring.judges.asking import Asking
from services.scoring.judges.known_answers import KnownAnswers
from services.scoring.judges.library import open_library
from services.scoring.parameters import parse_parameters
from services.scoring.scorers.llm_judge import LlmJudge, LlmJudgeParameters
from tests.fakes.judge_model import FakeJudgeModel, section

LIBRARY = open_library()
ITEM = ScoringItem(prompt="Why is the sky blue?")
PAIR = ScoringItem(prompt="Why?", details={"baseline": "bad"})
METRICS = CacheMetrics("test", CollectorRegistry())


def scorer(model: FakeJudgeModel, store: CacheStore | None = None, *judges: str, revision: str = "") -> LlmJudge:
    known = KnownAnswers(store, METRICS, engine_revision=revision)
    return LlmJudge(Asking(model, known, max_concurrent=8), LIBRARY, judges)


async def judged(judge: LlmJudge, text: str = "Because.", item: ScoringItem = ITEM, **parameters: Any) -> Score:
    checked = parse_parameters("llm_judge", LlmJudgeParameters, {"judges": ["judge"], **parameters})
    return await judge.score(checked, item, TextOutput(text))


async def failure(judge: LlmJudge, text: str = "Because.", item: ScoringItem = ITEM, **parameters: Any) -> FleetError:
    with pytest.raises(FleetError) as failed:
        await judged(judge, text, item, **parameters)
    return failed.value


def fours(model: str, prompt: str, sample: int) -> str:
    return "Fine.\nVerdict: 4"


def prefers_good(model: str, prompt: str, sample: int) -> str:
    """Prefers the response that says good, wherever it stands."""
    first, second = section(prompt, "response_a"), section(prompt, "response_b")
    return f"Verdict: {'tie' if first == second else 'A' if first == 'good' else 'B'}"
