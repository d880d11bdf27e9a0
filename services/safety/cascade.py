"""A guard made of guards: a cheap one decides what it is sure of, and hands the rest on to the next."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from services.runtime.errors import CancelledCallError, DeadlineExceededError, FleetError
from services.runtime.usage import Meter, usage_of, with_usage
from services.safety.cascade_file import CascadeFile, CascadeStage
from services.safety.combining import total_usage
from services.safety.guard import Guard
from services.safety.judgement import (
    CategoryScore,
    Decision,
    GuardDescription,
    GuardReference,
    HazardCategory,
    JudgedTurn,
    Verdict,
)

COLLECTION_PREFIX: Final = "guards/"

# With these it is the caller's time that is over: there is nobody left to hand on for.
_CALLERS_OWN: Final = (CancelledCallError, DeadlineExceededError)
# What a stage may decide; whatever else it says is handed on.
_DECIDABLE: Final = (Decision.SAFE, Decision.UNSAFE)


class CascadeMetrics:
    """What cascades count; the share that reaches the last stage is what they cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decided = Counter(
            "evalfleet_safety_cascade_turns",
            "Turns that cascades judged, by the stage whose verdict it is; is_last says whether it is the last stage.",
            labelnames=("cascade", "stage", "is_last"),
            registry=registry,
        )
        self.failed = Counter(
            "evalfleet_safety_cascade_failures",
            "Turns that an early stage could not judge; they were handed on.",
            labelnames=("cascade", "stage"),
            registry=registry,
        )


class CascadeGuard:
    """Implements ``Guard`` on guards of rising cost.

    An early stage's verdict stands only if its unsafe probability is at most the stage's ``low`` (SAFE) or at least its
    ``high`` (UNSAFE). Everything else goes on to the next stage: probabilities between, verdicts without one, ERROR,
    CONTROVERSIAL, texts that were cut, and all turns when the stage is away. The last stage's verdict stands whatever
    it is. A turn with a threshold of the caller's own goes to the last stage at once, because the calibration speaks of
    the stages' own thresholds.

    Args:
        file: the calibration.
        guards: one a stage, in their order; the ones that were calibrated.
        metrics: counts who decided.
    """

    def __init__(self, file: CascadeFile, guards: Sequence[Guard], metrics: CascadeMetrics) -> None:
        self._stages = tuple(zip(file.stages, guards, strict=True))
        self._about = _describe(file, guards)
        self._metrics = metrics
        self._log: Any = structlog.get_logger(__name__)

    @property
    def about(self) -> GuardDescription:
        """What it is and can do: what all of its stages can."""
        return self._about

    async def is_ready(self) -> bool:
        """Return whether every stage can judge; each is asked, so that each is loaded."""
        return all([await guard.is_ready() for _, guard in self._stages])

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Judge turns; each stage is asked once, for all that reach it.

        Raises:
            FleetError: the last stage is away while turns need it, or the caller's time is used up.
        """
        verdicts: list[Verdict | None] = [None] * len(turns)
        costs = [Meter() for _ in turns]
        try:
            for stage, guard in self._stages[:-1]:
                asked = [i for i, turn in enumerate(turns) if verdicts[i] is None and turn.threshold is None]
                if asked:
                    standing = await self._ask_early(stage, guard, [turns[i] for i in asked], [costs[i] for i in asked])
                    for index, verdict in zip(asked, standing, strict=True):
                        verdicts[index] = verdict
            rest = [index for index, verdict in enumerate(verdicts) if verdict is None]
            if rest:
                answers = await self._ask_last([turns[i] for i in rest], [costs[i] for i in rest])
                for index, answer in zip(rest, answers, strict=True):
                    verdicts[index] = answer
        except FleetError as error:
            raise with_usage(error, sum((each.usage for each in costs), usage_of(error))) from error
        return [
            replace(verdict, usage=cost.usage)
            for verdict, cost in zip(verdicts, costs, strict=True)
            if verdict is not None
        ]

    async def _ask_last(self, turns: Sequence[JudgedTurn], costs: Sequence[Meter]) -> list[Verdict]:
        """Return the verdicts on what no other stage decided."""
        stage, guard = self._stages[-1]
        answers = await guard.judge(turns)
        self._metrics.decided.labels(self._about.name, stage.guard, "true").inc(len(turns))
        for answer, cost in zip(answers, costs, strict=True):
            cost.add(answer.usage)
        return [replace(answer, guard=self._reference(answer.guard)) for answer in answers]

    async def _ask_early(
        self, stage: CascadeStage, guard: Guard, turns: Sequence[JudgedTurn], costs: Sequence[Meter]
    ) -> list[Verdict | None]:
        """Return the verdicts that stand, None for what is handed on; add what asking cost either way."""
        answers: Sequence[Verdict] = ()
        problem = ""
        try:
            # As the calibration asked: what a long text's later windows count for depends on the threshold.
            answers = await guard.judge(turns)
        except _CALLERS_OWN:
            raise
        except FleetError as error:
            problem = error.reason
            costs[0].add(usage_of(error))
        if len(answers) != len(turns):
            problem = problem or "WRONG_ANSWER_COUNT"
            costs[0].add(total_usage(answers))
            self._metrics.failed.labels(self._about.name, stage.guard).inc(len(turns))
            self._log.warning(
                "cascade_stage_failed", cascade=self._about.name, stage=stage.guard, reason=problem, turns=len(turns)
            )
            return [None] * len(turns)
        for answer, cost in zip(answers, costs, strict=True):
            cost.add(answer.usage)
        failed = sum(answer.decision is Decision.ERROR for answer in answers)
        standing = [self._standing(stage, answer) for answer in answers]
        self._metrics.failed.labels(self._about.name, stage.guard).inc(failed)
        decided = sum(verdict is not None for verdict in standing)
        self._metrics.decided.labels(self._about.name, stage.guard, "false").inc(decided)
        return standing

    def _standing(self, stage: CascadeStage, answer: Verdict) -> Verdict | None:
        if answer.decision not in _DECIDABLE or answer.truncated:
            return None
        is_unsafe = stage.decide(answer.unsafe_probability)
        if is_unsafe is None or answer.unsafe_probability is None or (answer.unmapped and not is_unsafe):
            return None
        if answer.unjudged_reason and not is_unsafe:
            return None  # what may be there was not judged
        if answer.decision is Decision.UNSAFE and answer.threshold is None and not is_unsafe:
            return None  # its own word says otherwise, and no threshold that its probability stayed below
        scaled = _scaled(answer.unsafe_probability, stage.temperature)
        return replace(
            answer,
            decision=Decision.UNSAFE if is_unsafe else Decision.SAFE,
            guard=self._reference(answer.guard),
            threshold=None if stage.high is None else _scaled(stage.high, stage.temperature),
            unsafe_probability=scaled,
            categories=_scaled_scores(_reached(stage, answer), stage.temperature) if is_unsafe else (),
            all_scores=_scaled_scores(answer.all_scores, stage.temperature),
            # A stage of its own kind may say more than whether a turn is hazardous, but nobody calibrated that.
            refusal=None,
            over_refusal=None,
        )

    def _reference(self, judge: GuardReference) -> GuardReference:
        """Return this cascade's reference, with the engine and dtype of the stage that decided."""
        short = judge.name.removeprefix(COLLECTION_PREFIX)
        return replace(self._about.reference, engine=f"cascade/{short}", dtype=judge.dtype)


def _reached(stage: CascadeStage, answer: Verdict) -> Sequence[CategoryScore]:
    """The categories that reached the stage's own bound, where it says how probable each is."""
    if stage.high is None or not any(each.probability is not None for each in answer.all_scores):
        return answer.categories
    return [each for each in answer.all_scores if each.probability is not None and each.probability >= stage.high]


def _describe(file: CascadeFile, guards: Sequence[Guard]) -> GuardDescription:
    abouts = [guard.about for guard in guards]
    references = [about.reference for about in abouts]
    categories: dict[tuple[str, str, str], HazardCategory] = {}
    for about in abouts:
        for category in about.categories:
            categories.setdefault((category.taxonomy, category.taxonomy_version, category.code), category)
    return GuardDescription(
        reference=GuardReference(
            name=f"{COLLECTION_PREFIX}{file.name}",
            weights_digest=_digest([each.weights_digest for each in references]),
            template_digest=_digest([each.template_digest for each in references]),
            calibration_digest=_digest([file.digest, *(each.calibration_digest for each in references)]),
            engine="cascade",
            dtype="+".join(dict.fromkeys(each.dtype for each in references if each.dtype)),
        ),
        description=(
            f"{file.description} With confidence {file.promise.confidence:.4g}, at most "
            f"{file.promise.disagreement:.4g} of texts like those of its calibration are decided otherwise than by the "
            "last guard."
        ),
        aspects=tuple(aspect for aspect in abouts[-1].aspects if all(aspect in about.aspects for about in abouts)),
        categories=tuple(categories.values()),
        default_threshold=None,
        max_tokens=abouts[-1].max_tokens,
    )


def _scaled_scores(scores: Sequence[CategoryScore], temperature: float) -> tuple[CategoryScore, ...]:
    """Scale categories as the unsafe probability, so that none exceeds it."""
    return tuple(
        each if each.probability is None else replace(each, probability=_scaled(each.probability, temperature))
        for each in scores
    )


def _scaled(probability: float, temperature: float) -> float:
    """Divide the log-odds by the temperature (Guo et al., ICML 2017, arXiv:1706.04599); 0 and 1 stay."""
    if not 0 < probability < 1:
        return probability
    log_odds = math.log(probability / (1 - probability)) / temperature
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    return math.exp(log_odds) / (1 + math.exp(log_odds))


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts), separators=(",", ":")).encode()).hexdigest()
