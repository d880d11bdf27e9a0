"""One item's way through the fleet: ask the model, judge what it gave, end in exactly one outcome."""

import time
from collections.abc import Sequence

import structlog

from services.evaluation.items import InvalidItem, Item
from services.evaluation.runs.asked_prompts import prompt_text, shown_targets
from services.evaluation.runs.asking import ModelAsking, ModelOutput
from services.evaluation.runs.fatal_errors import RunCannotGoOnError, is_fatal
from services.evaluation.runs.judging import OutputJudge
from services.evaluation.runs.judging_bill import JudgingBill
from services.evaluation.runs.outcome import Failure, ItemOutcome
from services.evaluation.runs.peers import Generator, Peers, SafetyJudge, ScorerPanel
from services.evaluation.runs.record import Run
from services.evaluation.tasks import Task
from services.runtime.calls import current_traceparent
from services.runtime.errors import FleetError
from services.runtime.telemetry.spans import span
from services.runtime.usage import NO_USAGE, Usage, usage_of

_LOG = structlog.stdlib.get_logger(__name__)


class ItemPipeline:
    """Takes the items of one task of one run to their outcomes."""

    def __init__(
        self,
        task: Task,
        *,
        model: str,
        seed: int,
        generator: Generator,
        safety: SafetyJudge,
        scorers: ScorerPanel,
        patience_seconds: float,
    ) -> None:
        self._name = task.name
        self._task = task.spec
        self._about = {"evalfleet.task": task.name, "evalfleet.model": model}
        self._asking = ModelAsking(task, model=model, seed=seed, generator=generator, patience_seconds=patience_seconds)
        self._judges = OutputJudge(task, safety=safety, scorers=scorers, patience_seconds=patience_seconds)

    @property
    def sample_count(self) -> int:
        """Outcomes that an item has."""
        return self._task.generation.sample_count

    async def outcomes(self, item: Item | InvalidItem, draw_index: int) -> Sequence[ItemOutcome]:
        """Ask and judge one item; one outcome a sample, failures included.

        Raises:
            RunCannotGoOnError: the model is gone, or a service stayed away.
        """
        with span("item", begins_trace=True, item_id=f"{self._name}/{item.item_id}", attributes=self._about) as trace:
            outcomes = await self._outcomes(item, draw_index)
            if trace.is_recording and (failure := next((each.failure for each in outcomes if each.failure), None)):
                trace.fail(failure.reason)
            return outcomes

    async def _outcomes(self, item: Item | InvalidItem, draw_index: int) -> Sequence[ItemOutcome]:
        if isinstance(item, InvalidItem):
            failure = Failure(item.reason, item.message, self._task.failure_values)
            return self._all_failed(item, draw_index, failure)
        try:
            outputs = await self._asking.ask(item)
        except FleetError as error:
            if is_fatal(error):
                raise RunCannotGoOnError(error) from error
            return self._all_failed(item, draw_index, self._failure(error, item), usage_of(error))
        prompt = prompt_text(item)
        return [await self._judge(item, output, (draw_index, sample), prompt) for sample, output in enumerate(outputs)]

    def _all_failed(
        self, item: Item | InvalidItem, draw_index: int, failure: Failure, usage: Usage = NO_USAGE
    ) -> Sequence[ItemOutcome]:
        """Return the outcomes of an item that has no answer; the first one has what was spent before."""
        now = time.time()
        return [
            ItemOutcome(
                task=self._name,
                item=item.item_id,
                sample=sample,
                draw_index=draw_index,
                metrics=None,
                failure=failure,
                groups={} if isinstance(item, InvalidItem) else item.groups,
                prompt="" if isinstance(item, InvalidItem) else prompt_text(item),
                targets=() if isinstance(item, InvalidItem) else shown_targets(item),
                usage=NO_USAGE if sample else usage,
                complete_time=now,
                traceparent=current_traceparent(),
            )
            for sample in range(self.sample_count)
        ]

    def _failure(self, error: FleetError, item: Item) -> Failure:
        _LOG.info("item_failed", task=self._name, item=item.item_id, reason=error.reason, message=error.message)
        return Failure.from_error(error, self._task.failure_values)

    async def _judge(self, item: Item, output: ModelOutput, place: tuple[int, int], prompt: str) -> ItemOutcome:
        """The outcome of one sample; its place is the item's index in the run's order, and its own number."""
        bill = JudgingBill()
        judgement = await self._judges.judge(item, output.judged, bill)
        failure = judgement.whole_failure
        draw_index, sample = place
        return ItemOutcome(
            task=self._name,
            item=item.item_id,
            sample=sample,
            draw_index=draw_index,
            metrics=judgement.metrics if failure is None else None,
            failure=failure,
            metric_failures=judgement.metric_failures,
            targets=shown_targets(item),
            groups=item.groups,
            usage=output.usage + bill.usage,
            judges=tuple(judgement.judges),
            model_digest=output.model_digest,
            prompt=prompt,
            output=output.for_the_ledger,
            extracted_answer=judgement.extracted_answer if failure is None else None,
            truncated=output.truncated,
            complete_time=time.time(),
            traceparent=current_traceparent(),
        )


def pipeline_of(run: Run, task: Task, peers: Peers, *, patience_seconds: float) -> ItemPipeline:
    """The way of one task's items through the fleet."""
    return ItemPipeline(
        task,
        model=run.model,
        seed=run.seed,
        generator=peers.generator,
        safety=peers.safety,
        scorers=peers.scorers,
        patience_seconds=patience_seconds,
    )
