"""The other services, each given as many items at once as it answers without delay."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.evaluation.errors import ScoringUnavailableError
from services.evaluation.items import Message, Prompt
from services.evaluation.judging_specification import SafetyJudging, ScorerUse
from services.evaluation.runs.model_changes import ModelContent
from services.evaluation.runs.peers import (
    ContinuationScores,
    GeneratedText,
    GenerationOptions,
    Generator,
    SafetyJudge,
    SafetyVerdict,
    ScoredOutput,
    ScorerCall,
    ScorerPanel,
)
from services.evaluation.runs.retry import is_transient
from services.runtime.adaptive_limit import AdaptiveLimit
from services.runtime.errors import FleetError, UnavailableError
from services.runtime.telemetry.spans import span
from services.runtime.work import Work

MakeLimit = Callable[[], AdaptiveLimit]

_MOST_MODELS: Final = 64


class PeerMetrics:
    """Shows how many items each service may be given at once, and what came of those that it was given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gauge = Gauge(
            "evalfleet_peer_items_limit",
            "Items that may be asked of a service at once; of the generation service, for its slowest model.",
            ["service"],
            registry=registry,
        )

        self._outcomes = Counter(
            "evalfleet_peer_items",
            "Items asked of a service, by the status code that they ended with; one asked again counts again.",
            ["service", "code"],
            registry=registry,
        )

    def show(self, service: str, read: Callable[[], float]) -> None:
        """Read a service's limit whenever metrics are collected."""
        self._gauge.labels(service).set_function(read)

    def counter(self, service: str) -> Callable[[grpc.StatusCode], None]:
        """Return what counts a service's items; what is usual is there from the start, so that a rate can be taken."""
        for code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE):
            self._outcomes.labels(service, code.name)
        return lambda code: self._outcomes.labels(service, code.name).inc()


def work_of(limit: AdaptiveLimit) -> Work:
    """The items that a service has been given, and those that wait until it may be."""
    return Work(running=limit.in_flight, queued=limit.waiting, oldest_wait_seconds=limit.oldest_wait_seconds)


class PacedGenerator:
    """The generation service; each model has a limit of its own, since each has an engine of its own."""

    def __init__(self, generator: Generator, make_limit: MakeLimit) -> None:
        self._generator = generator
        self._make_limit = make_limit
        self._limits: OrderedDict[str, AdaptiveLimit] = OrderedDict()

    @property
    def smallest_limit(self) -> int:
        """The limit of the model that is given the fewest items; 0 before the first item."""
        # A copy: scrapes ask from their own thread while items move models about.
        return min((each.limit for each in tuple(self._limits.values())), default=0)

    def work(self) -> Work:
        """The items that models answer, and those that wait until they may be asked."""
        return sum(map(work_of, tuple(self._limits.values())), Work())

    async def model_digest(self, model: str) -> str:
        """See ``Generator.model_digest``."""
        return await self._generator.model_digest(model)

    async def model_content(self, model: str) -> ModelContent:
        """See ``Generator.model_content``."""
        return await self._generator.model_content(model)

    async def generate(self, model: str, prompt: Prompt, options: GenerationOptions) -> Sequence[GeneratedText]:
        """See ``Generator.generate``."""
        with span("generate", "client"):
            return await self._limit(model).run(partial(self._generator.generate, model, prompt, options))

    async def score(
        self, model: str, context: Prompt, continuations: Sequence[str], *, truncate_left: bool
    ) -> ContinuationScores:
        """See ``Generator.score``."""
        score = partial(self._generator.score, model, context, continuations, truncate_left=truncate_left)
        with span("score continuations", "client"):
            return await self._limit(model).run(score)

    def _limit(self, model: str) -> AdaptiveLimit:
        limit = self._limits.get(model)
        if limit is None:
            limit = self._limits[model] = self._make_limit()
            if len(self._limits) > _MOST_MODELS:
                self._limits.popitem(last=False)
        else:
            self._limits.move_to_end(model)
        return limit


class PacedSafetyJudge:
    """The safety service."""

    def __init__(self, judge: SafetyJudge, limit: AdaptiveLimit) -> None:
        self._judge = judge
        self._limit = limit

    async def classify(self, messages: Sequence[Message], judging: SafetyJudging) -> SafetyVerdict:
        """See ``SafetyJudge.classify``."""
        with span("classify", "client"):
            return await self._limit.run(partial(self._judge.classify, messages, judging))

    async def check(self, judgings: Sequence[SafetyJudging]) -> None:
        """See ``SafetyJudge.check``."""
        await self._judge.check(judgings)


class PacedScorerPanel:
    """The scoring service."""

    def __init__(self, panel: ScorerPanel, limit: AdaptiveLimit) -> None:
        self._panel = panel
        self._limit = limit

    async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput | FleetError]:
        """See ``ScorerPanel.score``."""
        outcomes: Sequence[ScoredOutput | FleetError] = ()

        async def attempt() -> None:
            nonlocal outcomes
            outcomes = await self._panel.score(calls)
            for each in outcomes:
                # The limit hears of one that pushes back by its error.
                if isinstance(each, FleetError) and is_transient(each):
                    raise each

        try:
            with span("score", "client"):
                await self._limit.run(attempt)
        except FleetError:
            if not outcomes:
                raise
        return outcomes

    async def check(self, uses: Sequence[ScorerUse]) -> None:
        """See ``ScorerPanel.check``.

        Raises:
            ScoringUnavailableError: in place of any UnavailableError.
        """
        try:
            await self._panel.check(uses)
        except UnavailableError as error:
            raise ScoringUnavailableError.of(error) from error
