"""Executes one ranking: all contenders get the same items in the same order, side by side; who is out gets no more."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from functools import partial

from services.evaluation.rankings.judge import Judge, Judged, Judgement
from services.evaluation.rankings.member import Member
from services.evaluation.rankings.record import Contender, Ranking
from services.evaluation.runs.accounts import Grant
from services.evaluation.runs.allowances import Allowance
from services.evaluation.runs.budget import BudgetKeeper, Spend
from services.evaluation.runs.drawings import Draw
from services.evaluation.runs.fatal_errors import RunCannotGoOnError
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.record import RunState, StopReason
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.task_items import TaskItems
from services.runtime.errors import FailedPreconditionError, FleetError, InternalError

_TURN_ITEMS = 8
"""Models take turns of so many items, so that an inference server can batch them."""
_FIRST_LOOK = 16
_LOOK_EVERY = 20
"""Standings are asked for whenever the common prefix has grown by a twentieth, and by 16 items at least."""
_LEAST_AHEAD = 32
_SHARE_AHEAD = 0.1
_ASK_AGAIN_SECONDS = 1.0


class RankingExecutor:
    """Takes one ranking from where the ledger has it to its end.

    Args:
        ranking: as it is stored.
        items: of its task.
        peers: the four services, their ledger fenced.
        judge: says who is out.
        on_change: takes the ranking whenever it has changed.
        patience_seconds: how long to wait for a service that is away.
        allowance: the caller's budget of the day; None: it is not limited.

    Raises:
        FailedPreconditionError: DATA_CHANGED: the ranking was begun with other data.
    """

    def __init__(
        self,
        ranking: Ranking,
        items: TaskItems,
        peers: Peers,
        judge: Judge,
        *,
        on_change: Callable[[Ranking], None],
        patience_seconds: float,
        allowance: Allowance | None = None,
    ) -> None:
        if ranking.data_digest not in ("", items.data_digest):
            raise FailedPreconditionError(
                f"the data of task {ranking.task!r} was changed while the ranking was in progress; start a new one",
                reason="DATA_CHANGED",
                metadata={"task": ranking.task},
            )
        if items.population is None:
            raise InternalError(f"the items of task {ranking.task} cannot be drawn")
        self._judge = judge
        self._on_change = on_change
        self._patience_seconds = patience_seconds
        self._changed = asyncio.Event()
        self._judged_count = -1
        self._ran_out = self._used_up_allowance = False
        self._allowance = allowance
        began = ranking.start_time or time.time()
        self.ranking = dataclasses.replace(
            ranking,
            state=RunState.RUNNING,
            start_time=began,
            item_count=len(items.population),
            data_digest=items.data_digest,
        )
        self._members = [
            Member(
                each,
                ranking,
                task=items.task,
                population=items.population,
                data_digest=items.data_digest,
                peers=peers,
                on_change=self._changed.set,
                patience_seconds=patience_seconds,
            )
            for each in ranking.contenders
        ]
        self.ranking = dataclasses.replace(self.ranking, sample_count=self._members[0].sample_count)
        self._seconds = lambda: max(0.0, time.time() - began)
        self._keeper = self._new_keeper(Spend())

    async def execute(self) -> None:
        """Ask items until the answer is known, or items or budget are used up. Cancelling this leaves it to be resumed.

        Raises:
            FleetError: the ranking cannot go on.
        """
        await self._take_up()
        try:
            async with asyncio.TaskGroup() as group:
                for member in self._members:
                    group.create_task(member.writer.drain())
                await self._race(group)
                for member in self._members:
                    await member.writer.finish()
        except* (FleetError, RunCannotGoOnError) as errors:
            first = errors.exceptions[0]
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise (first.error if isinstance(first, RunCannotGoOnError) else first) from None
        await self._look()
        self._conclude()

    async def _take_up(self) -> None:
        known = [await member.take_up() for member in self._members]
        spent = sum(known, Spend())
        self._keeper = self._new_keeper(spent)
        for member, earlier in zip(self._members, known, strict=True):
            if earlier.items:
                self._keeper.learn(member.run, earlier.mean)

    def _new_keeper(self, spent: Spend) -> BudgetKeeper:
        probes = self._allowance is not None and self._allowance.budget.limit.limits_cost
        return BudgetKeeper(self.ranking.budget, spent=spent, now=self._seconds, probes=probes)

    async def _race(self, group: asyncio.TaskGroup) -> None:
        again = False
        while True:
            self._changed.clear()
            if self._is_due:
                await self._look()
            if self._is_over():
                break
            self._tell()
            again = not (await self._begin_one(group, again=again) or await self._wait_for_change())
        jobs = [job for member in self._members for job in member.drawn.in_flight]
        for member in self._members:
            member.leave()
        if jobs:
            await asyncio.wait(jobs)

    @property
    def _common_count(self) -> int:
        """Items that every contender which is in has, from the first on without a gap."""
        return min((each.completed_count for each in self._members if each.is_in), default=0)

    @property
    def _is_due(self) -> bool:
        common, judged = self._common_count, max(0, self._judged_count)
        if common == self.ranking.item_count:
            return common > judged
        return common >= judged + max(_FIRST_LOOK, judged // _LOOK_EVERY)

    def _is_over(self) -> bool:
        left = self._keeper.wall_seconds_left
        if left is not None and left <= 0:
            self._ran_out = True
        is_open = any(each.is_in and (each.drawn.wants_items or each.drawn.in_flight) for each in self._members)
        # What is written and not yet acknowledged may still decide.
        is_waiting = any(each.is_in and each.completed_count < each.drawn.begun_count for each in self._members)
        return self.ranking.is_decided or self._ran_out or not (is_open or is_waiting)

    @property
    def _in_flight_count(self) -> int:
        return sum(len(each.drawn.in_flight) for each in self._members)

    async def _begin_one(self, group: asyncio.TaskGroup, *, again: bool) -> bool:
        """Begin one item of the model that has had the fewest, if there is room; report whether anything has moved."""
        if self._in_flight_count >= self.ranking.concurrency:
            return False
        wanting = [each for each in self._members if each.is_in and each.drawn.wants_items]
        # Nobody runs ahead of what can be judged by more than that: it is what an early answer wastes.
        most = self._common_count + max(_LEAST_AHEAD, int(_SHARE_AHEAD * self._common_count))
        wanting = [each for each in wanting if each.drawn.begun_count < most]
        for member in sorted(wanting, key=lambda each: each.drawn.begun_count // _TURN_ITEMS):
            draw = await member.drawn.next_draw(again=again)
            if draw is None:
                continue
            if member.is_known(draw):
                member.drawn.begun_count += 1
                return True
            reserved = self._keeper.reserve(member.run)
            if reserved is None:
                member.drawn.put_back(draw)
                # With nothing in flight nothing can be settled that would make room.
                if not self._in_flight_count:
                    self._ran_out = True
                    return True
                continue
            job = group.create_task(self._work_on(member, draw, reserved))
            member.begin(job)
            job.add_done_callback(partial(self._end, member))
            return True
        return False

    def _end(self, member: Member, job: asyncio.Task[None]) -> None:
        member.drawn.in_flight.discard(job)
        self._changed.set()

    async def _work_on(self, member: Member, draw: Draw, reserved: Spend) -> None:
        grant: Grant | None = None
        if self._allowance is not None:
            try:
                grant = await self._allowance.reserve(reserved)
            finally:
                if grant is None:
                    self._keeper.give_back(member.run, reserved)
            if grant is None:
                self._ran_out = self._used_up_allowance = True
                return
        actual: Spend | None = None
        try:
            actual = await member.work_on(draw)
        finally:
            self._keeper.settle(member.run, reserved, actual)
            if self._allowance is not None and grant is not None:
                self._allowance.settle(grant, actual)

    async def _wait_for_change(self) -> bool:
        left = self._keeper.wall_seconds_left
        longest = _ASK_AGAIN_SECONDS if left is None else min(_ASK_AGAIN_SECONDS, max(0.0, left))
        try:
            async with asyncio.timeout(longest):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _look(self) -> None:
        """Ask who is in and who is out."""
        common = self._common_count
        ask = partial(self._judge.judge, self.ranking)
        judgement = await wait_out(ask, patience_seconds=self._patience_seconds)
        self._judged_count = max(self._judged_count, common)
        for member, judged in zip(self._members, judgement.runs, strict=True):
            if member.is_in and (judgement.is_decided or not judged.standing.wants_items):
                member.leave()
        self._tell(judgement)

    def _tell(self, judgement: Judgement | None = None) -> None:
        """Pass the ranking on as it stands."""
        known = [None] * len(self._members) if judgement is None else judgement.runs
        ranking = dataclasses.replace(
            self.ranking,
            spent=self._keeper.spent,
            contenders=tuple(
                _updated(contender, member, judged)
                for contender, member, judged in zip(self.ranking.contenders, self._members, known, strict=True)
            ),
        )
        if judgement is not None:
            count = judgement.compared_count
            ranking = dataclasses.replace(ranking, compared_count=count, is_decided=judgement.is_decided)
        if ranking != self.ranking:
            self.ranking = ranking
            self._on_change(ranking)

    def _conclude(self) -> None:
        if self.ranking.is_decided and self.ranking.compared_count < (self.ranking.item_count or 0):
            reason = StopReason.DECIDED
        elif self._ran_out and not self.ranking.is_decided:
            gone = self._used_up_allowance
            reason = StopReason.CALLER_BUDGET_EXHAUSTED if gone else StopReason.BUDGET_EXHAUSTED
        else:
            reason = StopReason.COMPLETE
        self.ranking = dataclasses.replace(self.ranking, stop_reason=reason)
        self._on_change(self.ranking)


def _updated(contender: Contender, member: Member, judged: Judged | None) -> Contender:
    counted = dataclasses.replace(
        contender,
        scored_count=member.scored_count,
        failed_count=member.failed_count,
        evaluated_count=member.evaluated_count,
    )
    if judged is None:
        return counted
    return dataclasses.replace(
        counted,
        standing=judged.standing,
        decided_after=judged.decided_after,
        value=judged.value,
        span=judged.span,
        difference=judged.difference,
        completed_count=judged.completed_count,
    )
