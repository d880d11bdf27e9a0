"""One model of a ranking at work: its draws, its items in flight, and which outcomes the ledger has."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from services.evaluation.rankings.record import Contender, Ranking
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Draw, DrawingRequest, Population
from services.evaluation.runs.drawn_task import DrawnTask
from services.evaluation.runs.gates import TaskQuestions
from services.evaluation.runs.known_outcomes import KnownOutcomes
from services.evaluation.runs.ledger_writer import LedgerWriter
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.pipeline import ItemPipeline
from services.evaluation.runs.retry import wait_out
from services.evaluation.tasks import Task
from services.runtime.usage import Usage


class Member:
    """One model of a ranking.

    Args:
        contender: which.
        ranking: of all.
        task: that all are asked.
        population: its items in the order of the data.
        data_digest: over the task's definition and rows.
        peers: the four services.
        on_change: is called whenever outcomes are saved or something is known.
        patience_seconds: how long to wait for a service that is away.

    Attributes:
        run: its results are booked under this run.
        drawn: its draws; without questions, since several runs together answer the ranking's.
        writer: of its outcomes.
        is_in: further items of it may tell more.
        sample_count: outcomes that an item has.
        scored_count: outcomes that the ledger has.
        failed_count: the same of those that failed.
        evaluated_count: items of which the ledger has every outcome.
    """

    def __init__(
        self,
        contender: Contender,
        ranking: Ranking,
        *,
        task: Task,
        population: Population,
        data_digest: str,
        peers: Peers,
        on_change: Callable[[], None],
        patience_seconds: float,
    ) -> None:
        self.run = contender.run
        self.is_in = contender.standing.wants_items
        self.scored_count = self.failed_count = self.evaluated_count = 0
        self._task = task.name
        self._peers = peers
        self._on_change = on_change
        self._patience_seconds = patience_seconds
        pipeline = ItemPipeline(
            task,
            model=contender.model,
            seed=ranking.seed,
            generator=peers.generator,
            safety=peers.safety,
            scorers=peers.scorers,
            patience_seconds=patience_seconds,
        )
        self.sample_count = pipeline.sample_count
        self._known = KnownOutcomes({task.name: pipeline.sample_count})
        request = DrawingRequest(
            run=self.run,
            seed=ranking.seed,
            model=contender.model,
            model_digest=contender.model_digest,
            data_digest=data_digest,
            sample_count=pipeline.sample_count,
            # Models are paired draw by draw, so nothing but the seed may choose the order.
            uses_history=False,
            earlier_runs=(),
            previous_run="",
            questions=TaskQuestions(task.name, ranking.metric, (), ranking.interval_alpha),
        )
        self.drawn = DrawnTask(request, population, pipeline, peers.drawings, patience_seconds=patience_seconds)
        self.writer = LedgerWriter(
            peers.ledger, self.run, on_saved=self._count, on_decision=self._note, patience_seconds=patience_seconds
        )

    @property
    def completed_count(self) -> int:
        """Items of the common order that it has without a gap."""
        return self.drawn.decision.completed_count if self.drawn.decision is not None else 0

    async def take_up(self) -> Spend:
        """Fix its order, or find it as an earlier process has fixed it; return what was spent before."""
        await self.drawn.create()

        async def read() -> None:
            async for key in self._peers.ledger.keys(self.run):
                self._count_one(key.draw_index, key.sample, failed=key.failed)

        await wait_out(read, patience_seconds=self._patience_seconds)
        if not self._known:
            return Spend()
        findings = partial(self._peers.ledger.findings, self.run)
        found = await wait_out(findings, patience_seconds=self._patience_seconds)
        return sum((each.spent for each in found.values()), Spend())

    def is_known(self, draw: Draw) -> bool:
        """Whether the ledger has every sample of an item."""
        return self._known.has_all(self._task, draw.draw_index)

    async def work_on(self, draw: Draw) -> Spend:
        """Ask and judge one item, hand its outcomes to the ledger, and return what it cost."""
        outcomes = await self.drawn.outcomes(draw)
        for outcome in outcomes:
            if not self._known.has(self._task, outcome.draw_index, outcome.sample):
                await self.writer.write(outcome)
        return Spend.of_item(sum((outcome.usage for outcome in outcomes), Usage()))

    def begin(self, job: asyncio.Task[None]) -> None:
        """Note that an item is in flight."""
        self.drawn.begun_count += 1
        self.drawn.in_flight.add(job)

    def leave(self) -> None:
        """Ask nothing more, and cancel what is in flight."""
        self.is_in = False
        self.drawn.put_down()

    def _note(self, decision: TaskDecision) -> None:
        self.drawn.note(decision)
        self._on_change()

    def _count(self, outcomes: Sequence[ItemOutcome]) -> None:
        for each in outcomes:
            self._count_one(each.draw_index, each.sample, failed=each.failure is not None)
        self._on_change()

    def _count_one(self, draw_index: int, sample: int, *, failed: bool) -> None:
        if self._known.add(self._task, draw_index, sample):
            self.failed_count += failed
            self.scored_count += not failed
            self.evaluated_count += self._known.has_all(self._task, draw_index)
