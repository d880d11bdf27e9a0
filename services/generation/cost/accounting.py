"""Puts a price on answers and books them to their callers."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from services.generation.answering import Answering, BatchOutcome
from services.generation.cost.caller_ledger import OTHERS, CallerLedger
from services.generation.requests import (
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TextPiece,
    Usage,
)
from services.runtime.callers import current_caller
from services.runtime.prices import PriceTable

_MOST_LABELS: Final = 50
_TOKEN_KINDS: Final = (
    "computed_prompt_tokens",
    "computed_completion_tokens",
    "prefix_saved_tokens",
    "cache_saved_tokens",
)


class CallerMetrics:
    """Counters by caller: the first callers by name, the rest together, so that labels stay few.

    Args:
        registry: receives them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # Finding a counter by its labels costs more than counting, so the found ones are kept.
        self._of_callers: dict[str, _CallerCounters] = {}
        self._tokens = Counter(
            "evalfleet_generation_caller_tokens",
            "Tokens by caller: computed, or saved by prefixes or by the cache of answers.",
            labelnames=("caller", "kind"),
            registry=registry,
        )
        self._engine_seconds = Counter(
            "evalfleet_generation_caller_engine_seconds",
            "Engine time by caller.",
            labelnames=("caller",),
            registry=registry,
        )
        self._cost = Counter(
            "evalfleet_generation_caller_cost_usd",
            "Cost by caller, by the price table.",
            labelnames=("caller",),
            registry=registry,
        )

    def add(self, caller: str, usage: Usage) -> None:
        """Count one answer."""
        counters = self._of_callers.get(caller) or self._counters(caller)
        for kind, tokens in counters.tokens.items():
            if count := getattr(usage, kind):
                tokens.inc(count)
        if usage.engine_seconds:
            counters.engine_seconds.inc(usage.engine_seconds)
        if usage.cost_nano_usd:
            counters.cost.inc(usage.cost_nano_usd / 1e9)

    def _counters(self, caller: str) -> "_CallerCounters":
        if len(self._of_callers) >= _MOST_LABELS:
            caller = OTHERS
        counters = _CallerCounters(
            {kind: self._tokens.labels(caller, kind.removesuffix("_tokens")) for kind in _TOKEN_KINDS},
            self._engine_seconds.labels(caller),
            self._cost.labels(caller),
        )
        if caller != OTHERS:
            self._of_callers[caller] = counters
        return counters


@dataclass(frozen=True, slots=True)
class _CallerCounters:
    tokens: Mapping[str, Counter]
    engine_seconds: Counter
    cost: Counter


class AccountedGenerator:
    """Implements ``Answering``: passes requests on, and prices and books what comes back.

    Args:
        inner: answers.
        prices: what computing costs.
        ledger: keeps the sums.
        metrics: receives counters by caller.
    """

    def __init__(self, inner: Answering, prices: PriceTable, ledger: CallerLedger, metrics: CollectorRegistry) -> None:
        self._inner = inner
        self._prices = prices
        self._ledger = ledger
        self._metrics = CallerMetrics(metrics)

    def for_one_call(self) -> "AccountedGenerator":
        """Return the same for all of one call; raises InvalidArgumentError CALLER_INVALID."""
        bound = copy(self)
        bound._inner = self._inner.for_one_call()
        return bound

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate and book the answer.

        Raises:
            InvalidArgumentError: CALLER_INVALID.
            FleetError: as the inner generator; failed requests are not booked.
        """
        caller = current_caller()
        return self._booked(caller, request.model_id, await self._inner.generate(request))

    async def generate_batch(self, requests: Sequence[GenerationRequest | BaseException]) -> list[BatchOutcome]:
        """Generate for many requests and book those that were answered."""
        caller = current_caller()
        outcomes = await self._inner.generate_batch(requests)
        return [
            self._booked(caller, request.model_id, outcome)
            if isinstance(outcome, GenerationResult) and isinstance(request, GenerationRequest)
            else outcome
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    async def generate_pieces(self, request: GenerationRequest) -> AsyncGenerator[TextPiece | GenerationResult, None]:
        """Generate one answer piece by piece and book it when it is complete; raises as ``generate`` does."""
        caller = current_caller()
        async with aclosing(self._inner.generate_pieces(request)) as pieces:
            async for piece in pieces:
                yield piece if isinstance(piece, TextPiece) else self._booked(caller, request.model_id, piece)

    async def score(self, request: ScoringRequest) -> ScoringResult:
        """Score and book the answer; raises as ``generate`` does."""
        caller = current_caller()
        result = await self._inner.score(request)
        usage = self._priced(request.model_id, result.engine, result.usage)
        self._book(caller, usage, is_cached=result.is_cached)
        return result if usage is result.usage else replace(result, usage=usage)

    def _booked(self, caller: str, model_id: str, result: GenerationResult) -> GenerationResult:
        usage = self._priced(model_id, result.engine, result.usage)
        self._book(caller, usage, is_cached=result.is_cached)
        return result if usage is result.usage else replace(result, usage=usage)

    def _priced(self, model_id: str, engine: str, usage: Usage) -> Usage:
        cost = self._prices.nano_usd(model_id, engine, usage)
        return usage if cost == usage.cost_nano_usd else replace(usage, cost_nano_usd=cost)

    def _book(self, caller: str, usage: Usage, *, is_cached: bool) -> None:
        self._ledger.add(caller, usage, is_cached=is_cached)
        self._metrics.add(caller, usage)
