"""Creates, executes, takes over, cancels and watches rankings, together with the other replicas on the same list."""

import asyncio
import contextlib
import dataclasses
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial

import structlog

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.rankings.executor import RankingExecutor
from services.evaluation.rankings.judge import Judge
from services.evaluation.rankings.making import new_ranking
from services.evaluation.rankings.record import Ranking, RankingRequest, member_runs
from services.evaluation.rankings.store import RankingClaim, RankingStore
from services.evaluation.runs.allowances import Allowance, Allowances
from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.live_work import LiveWork
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.record import RunFailure, RunState
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.task_items import SuiteBook
from services.runtime.callers import ANONYMOUS, current_caller
from services.runtime.calls import bind_deadline, bind_ids
from services.runtime.deadlines import child_timeout
from services.runtime.errors import AlreadyExistsError, FailedPreconditionError, FleetError, as_fleet_error, not_found

_LONGEST_FENCE_SECONDS = 5.0
"""How long a cancellation waits for a ledger that is away."""

_LOG = structlog.stdlib.get_logger(__name__)


class RankingManager:
    """Works on rankings, at most ``parallel_rankings`` at once, whichever replica made them.

    Args:
        store: the list of rankings.
        runs: the list of runs, which gets the runs of rankings that have ended.
        suites: where tasks and items come from.
        peers: the four other services.
        judge: says who is out.
        allowances: daily budgets of callers; None: nobody is limited.
    """

    def __init__(
        self,
        store: RankingStore,
        runs: RunStore,
        suites: SuiteBook,
        peers: Peers,
        judge: Judge,
        *,
        parallel_rankings: int,
        default_concurrency: int,
        patience_seconds: float,
        lease_times: LeaseTimes,
        allowances: Allowances | None = None,
    ) -> None:
        self._store = store
        self._runs = runs
        self._suites = suites
        self._peers = peers
        self._judge = judge
        self._default_concurrency = default_concurrency
        self._patience_seconds = patience_seconds
        self._times = lease_times
        self._allowances = allowances
        self._owner = f"{socket.gethostname()[:200]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._places = asyncio.Semaphore(parallel_rankings)
        self._live: LiveWork[Ranking] = LiveWork(
            poll_seconds=lease_times.poll_seconds, patience_seconds=patience_seconds
        )
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._may_have_work = asyncio.Event()
        self._own_tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to work on rankings, those first that an earlier process or another replica left unfinished."""
        if not self._store.is_shared:
            # A file is used by one process, and this one holds nothing yet.
            await self._store.give_back()
        self._own_tasks = [asyncio.create_task(self._live.announce()), asyncio.create_task(self._take_rankings())]

    async def stop(self) -> None:
        """Put all rankings down where they are; another replica, or the next start, takes them up again."""
        for tasks in (self._own_tasks, list(self._jobs.values())):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._store.give_back(self._owner)
        except RunsUnavailableError as error:
            _LOG.warning("leases_not_given_back", message=error.message)

    async def create(self, request: RankingRequest) -> Ranking:
        """Store and start a ranking; a request that was made before returns its ranking.

        Raises:
            NotFoundError: suite, task, metric, scorer, guard or model does not exist.
            InvalidArgumentError: it is not clear which task is meant.
            AlreadyExistsError: the id is taken, or that of one of its runs.
            ResourceExhaustedError: CALLER_BUDGET_EXHAUSTED: the caller has nothing left today.
        """
        if (earlier := await self._earlier(request)) is not None:
            return earlier
        if self._allowances is not None:
            await self._allowances.check(current_caller())
        ranking = await new_ranking(
            request,
            self._suites,
            self._peers,
            default_concurrency=self._default_concurrency,
            patience_seconds=self._patience_seconds,
        )
        if await self._store.get(ranking.ranking_id) is None:
            await self._check_runs(ranking)
        try:
            await self._store.add(ranking)
        except AlreadyExistsError:
            # The same request may have come twice at once.
            if (earlier := await self._earlier(request)) is not None:
                return earlier
            raise
        self._may_have_work.set()
        return ranking

    async def _check_runs(self, ranking: Ranking) -> None:
        """Refuse to book the results of a ranking under runs that are there already."""
        for each in ranking.contenders:
            if await self._runs.get(each.run_id) is not None:
                raise AlreadyExistsError(
                    f"run {each.run_id!r} exists already, and {ranking.name} needs the name; choose another ranking_id",
                    reason="RUN_EXISTS",
                    metadata={"run": each.run},
                )

    async def _earlier(self, request: RankingRequest) -> Ranking | None:
        earlier = await self._store.find_request(request.request_id) if request.request_id else None
        return None if earlier is None else self._live.newest(earlier.ranking_id, earlier)

    async def get(self, ranking_id: str) -> Ranking:
        """Read a ranking as it stands; raises NotFoundError with the nearest names."""
        ranking = self._live.get(ranking_id) or await self._store.get(ranking_id)
        if ranking is None:
            known = [each.ranking_id for each in await self._store.page(size=1000)]
            raise not_found("ranking", ranking_id, known)
        return ranking

    async def page(self, *, size: int, after: tuple[float, str] | None = None) -> Sequence[Ranking]:
        """Rankings, newest first; see RankingStore.page."""
        return [self._live.newest(each.ranking_id, each) for each in await self._store.page(size=size, after=after)]

    async def cancel(self, ranking_id: str) -> Ranking:
        """Stop a ranking for good, whichever replica works on it; outcomes that the ledger has stay there.

        Cancelling it again finishes what an earlier call left undone.
        """
        await self.get(ranking_id)
        left = await self._drop(ranking_id)
        epoch = await self._store.cancel(ranking_id, left)
        await self._drop(ranking_id)  # it may have been taken meanwhile
        self._live.tell()
        ended = await self.get(ranking_id)
        if epoch is not None:
            _LOG.info("ranking_ended", ranking=ended.name, state=ended.state.value)
            await self._shut_out(ended, epoch)
        if ended.state is RunState.CANCELLED:
            await self._publish(ended)
        return ended

    async def _drop(self, ranking_id: str) -> Ranking | None:
        """Stop working on a ranking here, and return it as it was left; None if it was not worked on."""
        if (job := self._jobs.get(ranking_id)) is not None:
            job.cancel()
            await asyncio.wait([job])
        return self._live.pop(ranking_id)

    async def _shut_out(self, ranking: Ranking, epoch: int) -> None:
        """Let the ledger refuse what a replica sends that does not know yet that a ranking was cancelled."""
        ledger = self._peers.ledger.fenced(epoch)
        try:
            for each in ranking.contenders:
                fence = partial(ledger.append, each.run, ())
                await wait_out(fence, patience_seconds=child_timeout(_LONGEST_FENCE_SECONDS))
        except FleetError as error:
            # That replica learns of it within seconds anyway.
            _LOG.warning("ranking_not_shut_out", ranking=ranking.name, message=error.message)

    def watch(self, ranking_id: str) -> AsyncGenerator[Ranking, None]:
        """The ranking now, and again whenever it has changed, until it has ended."""
        return self._live.watch(ranking_id, self.get)

    async def _take_rankings(self) -> None:
        """Take rankings whenever there is a place for one, until cancelled."""
        while True:
            await self._places.acquire()
            # Before the look, so that a ranking which is made meanwhile is not overlooked.
            self._may_have_work.clear()
            try:
                claim = await self._store.claim(self._owner, lease_seconds=self._times.lease_seconds)
            except Exception as error:  # noqa: BLE001 - no problem with one ranking may keep all others waiting for ever
                _LOG.warning("no_ranking_taken", exc_info=None if isinstance(error, RunsUnavailableError) else error)
                claim = None
            if claim is not None:
                _LOG.info("ranking_taken", ranking=claim.ranking.name, epoch=claim.epoch, owner=self._owner)
                # Our own lease may have ended, while the list was away: the work goes on under the new one.
                await self._drop(claim.ranking.ranking_id)
                self._launch(claim)
                continue
            self._places.release()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._times.poll_seconds):
                    await self._may_have_work.wait()

    def _launch(self, claim: RankingClaim) -> None:
        ranking = claim.ranking
        self._live.note(ranking.ranking_id, ranking)
        with bind_deadline(None), bind_ids(run_id=ranking.ranking_id, caller=ranking.caller):
            job = asyncio.create_task(self._execute(claim), name=ranking.name)
        self._jobs[ranking.ranking_id] = job
        job.add_done_callback(partial(self._put_down, ranking.ranking_id))

    def _put_down(self, ranking_id: str, job: asyncio.Task[None]) -> None:
        self._jobs.pop(ranking_id, None)
        self._places.release()

    async def _execute(self, claim: RankingClaim) -> None:
        try:
            failure = await self._failure_of(claim)
            state = RunState.FAILED if failure else RunState.SUCCEEDED
            live = self._live[claim.ranking.ranking_id]
            ended = dataclasses.replace(live, state=state, failure=failure, end_time=time.time())
            # Whoever lost the lease meanwhile has nothing to say about the runs.
            fence = partial(self._store.save, live, claim.epoch, lease_seconds=self._times.lease_seconds)
            await wait_out(fence, patience_seconds=self._patience_seconds)
            # First: whoever sees that the ranking has ended finds its runs.
            await wait_out(partial(self._publish, ended), patience_seconds=self._patience_seconds)
            await wait_out(partial(self._store.save, ended, claim.epoch), patience_seconds=self._patience_seconds)
            _LOG.info("ranking_ended", ranking=ended.name, state=state.value)
        except (LeaseLostError, RunsUnavailableError) as error:
            # Somebody else's by now, or it will be: whoever takes it finds in the ledger what was done.
            _LOG.warning("ranking_left", ranking=claim.ranking.name, epoch=claim.epoch, message=error.message)
        self._live.pop(claim.ranking.ranking_id)
        self._live.tell()

    async def _failure_of(self, claim: RankingClaim) -> RunFailure | None:
        """Work on a ranking to its end; return why it could not go on, if so."""
        working, renewing = asyncio.create_task(self._work_on(claim)), asyncio.create_task(self._renew(claim))
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            (working if working.done() else renewing).result()
        except (LeaseLostError, RunsUnavailableError):
            raise
        except Exception as error:  # noqa: BLE001 - a ranking's fault ends that ranking, never the service
            failure = RunFailure.from_error(as_fleet_error(error))
            _LOG.warning("ranking_failed", reason=failure.reason, message=failure.message)
            return failure
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
        return None

    async def _renew(self, claim: RankingClaim) -> None:
        """Store the ranking as it stands every few seconds, until the lease is lost."""
        while True:
            await asyncio.sleep(self._times.renewal_seconds)
            try:
                live = self._live[claim.ranking.ranking_id]
                await self._store.save(live, claim.epoch, lease_seconds=self._times.lease_seconds)
            except RunsUnavailableError as error:
                # Nobody else can take it meanwhile, or what we write is refused.
                _LOG.warning("lease_not_renewed", ranking=claim.ranking.name, message=error.message)

    async def _work_on(self, claim: RankingClaim) -> None:
        ranking = claim.ranking
        suite = await self._suites.resolve(ranking.suite, (ranking.task,))
        if suite.digest != ranking.suite_digest:
            raise FailedPreconditionError(
                f"task {ranking.task!r} was changed while the ranking was in progress; start a new one",
                reason="SUITE_CHANGED",
                metadata={"suite": ranking.suite, "task": ranking.task},
            )
        ledger = self._peers.ledger.fenced(claim.epoch)
        for each in ranking.contenders:
            ask = partial(self._peers.generator.model_digest, each.model)
            if await wait_out(ask, patience_seconds=self._patience_seconds) != each.model_digest:
                raise FailedPreconditionError(
                    f"{each.model} was replaced while the ranking was in progress; start a new one",
                    reason="MODEL_CHANGED",
                    metadata={"model": each.model},
                )
            # From here on the ledger takes nothing more from whoever had the ranking before.
            await wait_out(partial(ledger.append, each.run, ()), patience_seconds=self._patience_seconds)
        [items] = await self._suites.draw(suite, seed=ranking.seed, limit=ranking.item_limit)
        executor = RankingExecutor(
            ranking,
            items,
            dataclasses.replace(self._peers, ledger=ledger),
            self._judge,
            on_change=partial(self._live.note, ranking.ranking_id),
            patience_seconds=self._patience_seconds,
            allowance=self._allowance_of(ranking),
        )
        self._live.note(ranking.ranking_id, executor.ranking)
        # Before the first item, so that a restart can tell whether data were changed.
        save = partial(self._store.save, executor.ranking, claim.epoch, lease_seconds=self._times.lease_seconds)
        await wait_out(save, patience_seconds=self._patience_seconds)
        _LOG.info("ranking_started", ranking=ranking.name, models=len(ranking.contenders))
        await executor.execute()

    def _allowance_of(self, ranking: Ranking) -> Allowance | None:
        caller = ranking.caller or ANONYMOUS
        if self._allowances is None or not self._allowances.is_limited(caller):
            return None
        return self._allowances.of(caller)

    async def _publish(self, ranking: Ranking) -> None:
        """Put the runs of a ranking that has ended into the list of runs, over what was there of them."""
        for run in member_runs(ranking):
            await self._runs.add_ended(run)
