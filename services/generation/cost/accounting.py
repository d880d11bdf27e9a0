"""Puts a price on answers and books them to their callers."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from copy import copy
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter

from services.generation.answering import Answering, BatchOutcome
from services.generation.cost.bill import Bill
from services.generation.cost.caller_ledger import OTHERS, CallerLedger
from services.generation.cost.engine_costs import fleet_usage, together
from services.generation.requests import (
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TextPiece,
    Usage,
)
from services.runtime.callers import current_caller
from services.runtime.errors import FleetError, as_fleet_error
from services.runtime.prices import PriceTable
from services.runtime.spending import spend
from services.runtime.usage import with_usage

ResultT = TypeVar("ResultT", GenerationResult, ScoringResult)

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
    """Implements ``Answering``: passes requests on, prices what comes back, and books it to their callers.

    What was computed is booked, once, whatever becomes of the request: a result says what it cost; of a request that
    failed or was given up, its bill does.

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
            FleetError: as the inner generator; its metadata say what was computed before.
        """
        account = self._open(request.model_id)
        with account:
            return account.booked(await self._inner.generate(replace(request, bill=account.bill)))

    async def generate_batch(self, requests: Sequence[GenerationRequest | BaseException]) -> list[BatchOutcome]:
        """Generate for many requests and book each."""
        accounts = [None if isinstance(each, BaseException) else self._open(each.model_id) for each in requests]
        billed = [
            each if account is None or isinstance(each, BaseException) else replace(each, bill=account.bill)
            for each, account in zip(requests, accounts, strict=True)
        ]
        try:
            outcomes = await self._inner.generate_batch(billed)
            return [
                outcome if account is None else account.outcome(outcome)
                for outcome, account in zip(outcomes, accounts, strict=True)
            ]
        finally:
            for account in accounts:
                if account is not None:
                    account.book_rest()

    async def generate_pieces(self, request: GenerationRequest) -> AsyncGenerator[TextPiece | GenerationResult, None]:
        """Generate one answer piece by piece and book it, or what there is of it; raises as ``generate`` does."""
        account = self._open(request.model_id)
        with account:
            async with aclosing(self._inner.generate_pieces(replace(request, bill=account.bill))) as pieces:
                async for piece in pieces:
                    yield piece if isinstance(piece, TextPiece) else account.booked(piece)

    async def score(self, request: ScoringRequest) -> ScoringResult:
        """Score and book the answer; raises as ``generate`` does."""
        account = self._open(request.model_id)
        with account:
            return account.booked(await self._inner.score(replace(request, bill=account.bill)))

    def _open(self, model_id: str) -> "_Account":
        return _Account(self._prices, self._ledger, self._metrics, current_caller(), model_id)


class _Account(AbstractContextManager[None]):
    """The cost of one request; what is still owed when the ``with`` block is left is booked then.

    Attributes:
        bill: what engines compute for it stands there.
    """

    __slots__ = ("_caller", "_ledger", "_metrics", "_model_id", "_prices", "bill")

    def __init__(
        self, prices: PriceTable, ledger: CallerLedger, metrics: CallerMetrics, caller: str, model_id: str
    ) -> None:
        self._prices = prices
        self._ledger = ledger
        self._metrics = metrics
        self._caller = caller
        self._model_id = model_id
        self.bill = Bill(self._book_late)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owed = self.book_rest()
        if owed is not None and isinstance(error, FleetError):
            raise with_usage(error, fleet_usage(owed)) from error

    def booked(self, result: ResultT) -> ResultT:
        """Book a result, and return it with its price."""
        self.bill.settle()
        usage = self._priced(result.engine, result.usage)
        self._book(usage, is_cached=result.is_cached)
        return result if usage is result.usage else replace(result, usage=usage)

    def outcome(self, outcome: BatchOutcome) -> BatchOutcome:
        """Book what became of one request of a batch, and return it with what it cost."""
        if isinstance(outcome, GenerationResult):
            return self.booked(outcome)
        owed = self.book_rest()
        if owed is None or not isinstance(outcome, Exception):
            return outcome
        return with_usage(as_fleet_error(outcome), fleet_usage(owed))

    def book_rest(self) -> Usage | None:
        """Book what engines computed for a request without a result, and return it; ``None``: nothing (any longer)."""
        costs = [self._priced(engine, usage) for engine, usage in self.bill.close()]
        if not costs:
            return None
        owed = together(costs)
        self._book(owed)
        return owed

    def _book_late(self, engine: str, usage: Usage) -> None:
        """Book what was computed for others after this caller had left: it would have paid for it had it stayed."""
        self._book(self._priced(engine, usage), requests=0)

    def _priced(self, engine: str, usage: Usage) -> Usage:
        cost = self._prices.nano_usd(self._model_id, engine, usage)
        return usage if cost == usage.cost_nano_usd else replace(usage, cost_nano_usd=cost)

    def _book(self, usage: Usage, *, is_cached: bool = False, requests: int = 1) -> None:
        self._ledger.add(self._caller, usage, is_cached=is_cached, requests=requests)
        self._metrics.add(self._caller, usage)
        spend(fleet_usage(usage))
