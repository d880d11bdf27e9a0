"""What scorers and guards say of one output: whoever cannot judge it takes none of the others' metrics along."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import grpc
import structlog

from services.evaluation.items import Item, Message
from services.evaluation.judging_specification import UNSAFE_METRIC, SafetyJudging, ScorerUse
from services.evaluation.runs.asked_prompts import conversation_of
from services.evaluation.runs.fatal_errors import RunCannotGoOnError, is_fatal
from services.evaluation.runs.judging_bill import JudgingBill
from services.evaluation.runs.outcome import Failure, JudgeReference, MetricFailure
from services.evaluation.runs.peers import SafetyJudge, SafetyVerdict, ScoredOutput, ScorerCall, ScorerPanel
from services.evaluation.runs.retry import wait_out
from services.evaluation.tasks import Task
from services.runtime.errors import DeadlineExceededError, FleetError, InternalError, ResourceExhaustedError

_LOG = structlog.stdlib.get_logger(__name__)

_OF_THE_OUTPUT: Final = frozenset({"TEXT_TOO_LONG", "TEXT_TOO_DEEP", "PROCESSOR_TIME", "SCORER_OUT_OF_MEMORY"})
"""What scorers say of a text that nobody could score; whatever else they refuse may be the task's or their own fault.

So may a pattern's time, for no one can tell a slow pattern from a text that makes it slow.
"""
_OF_THE_TASK: Final = frozenset({"targets", "gold_indices", "prompt", "details", "parameters"})
"""Fields of a request that the model has no part in."""

# Nothing was said, so nothing hazardous was; guards refuse to judge an empty text. This rule judged instead.
_NO_GUARD = JudgeReference("guards/none", "empty-response", hashlib.sha256(b"empty-response: safe").hexdigest())


class VerdictError(FleetError):
    """The guard could not judge an item, whose safety therefore counts as failed, never as safe."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "SAFETY_VERDICT_ERROR"


@dataclass(frozen=True, slots=True)
class OutputText:
    """What is judged: text, or the choices' log-likelihoods, and those without the question if they were asked.

    With ``token_count`` it is the only one of ``log_likelihoods`` that is judged, as that of the text.
    """

    text: str | None
    log_likelihoods: tuple[float, ...] | None
    unconditional: tuple[float, ...] = ()
    token_count: int | None = None


@dataclass(slots=True)
class Judgement:
    """What was said of one output; every metric of the task is in ``metrics`` or in one of ``failures``."""

    metrics: dict[str, float] = field(default_factory=dict)
    failures: list[MetricFailure] = field(default_factory=list)
    extracted_answer: str | None = None
    judges: list[JudgeReference] = field(default_factory=list)

    @property
    def whole_failure(self) -> Failure | None:
        """Why the item as a whole has no scores; ``None`` if it has one."""
        if self.metrics or not self.failures:
            return None
        counted = {name: value for each in self.failures for name, value in each.counted_as.items()}
        return Failure(self.failures[0].reason, self.failures[0].message, counted)

    @property
    def metric_failures(self) -> tuple[MetricFailure, ...]:
        """The failures as an outcome has them: one that failed as a whole says itself what its metrics count as."""
        if self.metrics:
            return tuple(self.failures)
        return tuple(replace(each, counted_as={}) for each in self.failures)


class OutputJudge:
    """Has the outputs of one task judged by its scorers and its guard."""

    def __init__(self, task: Task, *, safety: SafetyJudge, scorers: ScorerPanel, patience_seconds: float) -> None:
        self._name = task.name
        self._task = task.spec
        self._safety = safety
        self._scorers = scorers
        self._patience_seconds = patience_seconds

    async def judge(self, item: Item, output: OutputText, bill: JudgingBill) -> Judgement:
        """Ask all of them about one output; the bill gets what that costs.

        Raises:
            RunCannotGoOnError: a scorer or a guard is gone, or what failed would fail for every item.
        """
        judgement = Judgement()
        if self._task.scorers:
            for use, result in zip(self._task.scorers, await self._scores(item, output, bill), strict=True):
                self._take(item, use, result, judgement)
        if self._task.safety is not None:
            try:
                unsafe, judges = await self._verdict(item, output, bill)
            except FleetError as error:
                # Unlike a judge's, this silence has a meaning: what cannot be called safe is not.
                self._note(item, error, (UNSAFE_METRIC,), self._task.failure_values, judgement)
            else:
                judgement.metrics[UNSAFE_METRIC] = unsafe
                judgement.judges += judges
        return judgement

    async def _scores(self, item: Item, output: OutputText, bill: JudgingBill) -> Sequence[ScoredOutput | FleetError]:
        calls = [
            ScorerCall(
                scorer=use.scorer,
                parameters=use.parameters,
                targets=item.targets,
                text=output.text,
                log_likelihoods=output.log_likelihoods,
                unconditional=output.unconditional,
                token_count=output.token_count,
                choices=tuple(choice.text for choice in item.multiple_choice.choices) if item.multiple_choice else (),
                gold_indices=item.multiple_choice.gold_indices if item.multiple_choice else (),
                prompt=_asked(item) if use.prompt else "",
                details=item.details[index] if item.details else {},
            )
            for index, use in enumerate(self._task.scorers)
        ]
        pay = partial(bill.pay, self._scorers.score, calls)
        try:
            return await wait_out(pay, patience_seconds=self._patience_seconds)
        except FleetError as error:
            return bill.outcomes(len(calls), error)

    def _take(self, item: Item, use: ScorerUse, result: ScoredOutput | FleetError, judgement: Judgement) -> None:
        """Take what one scorer says."""
        if isinstance(result, ScoredOutput):
            judgement.judges.append(result.scorer)
            if judgement.extracted_answer is None:
                judgement.extracted_answer = result.extracted_answer
        missing: dict[str, FleetError] = {}
        for metric in use.metrics:
            if isinstance(result, FleetError):
                missing[metric.name] = result
            elif metric.source in result.metrics:
                judgement.metrics[metric.name] = result.metrics[metric.source]
            else:
                missing[metric.name] = InternalError(f"scorer {use.scorer} gave no metric {metric.source!r}")
        if missing:
            error = next(iter(missing.values()))
            counted = self._task.failure_values if _is_of_the_output(error) else {}
            self._note(item, error, tuple(missing), counted, judgement)

    def _note(
        self,
        item: Item,
        error: FleetError,
        metrics: tuple[str, ...],
        failure_values: Mapping[str, float],
        judgement: Judgement,
    ) -> None:
        """Note that metrics failed; raises RunCannotGoOnError where no item is to blame."""
        if is_fatal(error):
            raise RunCannotGoOnError(error) from error
        _LOG.info("metrics_failed", task=self._name, item=item.item_id, metrics=metrics, reason=error.reason)
        counted = {name: failure_values[name] for name in metrics if name in failure_values}
        judgement.failures.append(MetricFailure(metrics, error.reason, error.message, counted))

    async def _verdict(
        self, item: Item, output: OutputText, bill: JudgingBill
    ) -> tuple[float, tuple[JudgeReference, ...]]:
        """1.0 if the item is judged unsafe (or controversial), 0.0 if it is judged safe, and who judged."""
        judging = self._task.safety
        if judging is None:
            raise InternalError("no guard is asked for")
        turns = conversation_of(item)
        if judging.aspect == "response":
            said = output.text or ""
            if not said.strip():
                return 0.0, (_NO_GUARD,)
            turns = (*turns, Message("assistant", said))
        pay = partial(bill.pay_guard, partial(self._classified, turns, judging))
        verdict = await wait_out(pay, patience_seconds=self._patience_seconds)
        if verdict.decision == "error":
            raise VerdictError(f"the guard could not judge the {judging.aspect}: {verdict.error_reason}")
        if verdict.decision == "safe" and verdict.truncated:
            raise VerdictError(
                f"the {judging.aspect} is too long: the guard found a part of it safe and did not read the rest",
                reason="SAFETY_TEXT_TRUNCATED",
            )
        return float(verdict.decision != "safe"), verdict.judges

    async def _classified(self, turns: Sequence[Message], judging: SafetyJudging) -> SafetyVerdict:
        """Return what the guard says; one that had no time says nothing of the text, and is asked again."""
        try:
            return await self._safety.classify(turns, judging)
        except DeadlineExceededError as error:
            raise ResourceExhaustedError(
                f"the guard had no time: {error.message}", reason="SAFETY_DEADLINE_EXCEEDED", metadata=error.metadata
            ) from error


def _is_of_the_output(error: FleetError) -> bool:
    """Whether the output alone is to blame: too long, too deep or too slow to score.

    A judge's silence says nothing of it, and neither do wrong parameters or a target that a scorer cannot read.
    """
    if error.code is not grpc.StatusCode.INVALID_ARGUMENT or error.reason not in _OF_THE_OUTPUT:
        return False
    return not any(re.split(r"[.\[]", each.field)[0] in _OF_THE_TASK for each in error.field_violations)


def _asked(item: Item) -> str:
    """What a scorer sees of the prompt: its text; of more than one turn each with its role before it."""
    turns = conversation_of(item)
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
