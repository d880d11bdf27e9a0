"""Creates, executes, takes over, cancels and watches runs, together with the other replicas on the same list."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial

import structlog

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.block_store import BlockStore, StoredBlocks
from services.evaluation.runs.earlier_runs import earlier_runs
from services.evaluation.runs.executor import RunExecutor
from services.evaluation.runs.fencing import FencedLedger
from services.evaluation.runs.helping import Helper
from services.evaluation.runs.leases import LeaseTimes, RunLeases
from services.evaluation.runs.live_work import LiveWork
from services.evaluation.runs.making import RunMaker
from services.evaluation.runs.peers import Ledger, Peers
from services.evaluation.runs.record import Run, RunFailure, RunRequest, RunState
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.store import Claim, RunStore
from services.evaluation.runs.stored_board import StoredBoard
from services.evaluation.runs.task_items import SuiteBook, TaskItems, tasks_of
from services.evaluation.runs.watched_ledger import LedgerReplacedError, WatchedLedger
from services.runtime.callers import ANONYMOUS
from services.runtime.calls import bind_deadline, bind_ids
from services.runtime.database_engine import RETRY_AFTER_SECONDS
from services.runtime.deadlines import child_timeout
from services.runtime.errors import FleetError, as_fleet_error, not_found

_LONGEST_FENCE_SECONDS = 5.0
"""How long a cancellation waits for a ledger that is away."""

_DEFAULT_TIMES = LeaseTimes()

_LOG = structlog.stdlib.get_logger(__name__)


class RunManager:
    """Works on the runs whose turn it is, at most ``parallel_runs`` at once, whichever replica made them."""

    def __init__(
        self,
        store: RunStore,
        suites: SuiteBook,
        peers: Peers,
        *,
        parallel_runs: int,
        default_concurrency: int,
        patience_seconds: float,
        lease_times: LeaseTimes = _DEFAULT_TIMES,
        allowances: Allowances | None = None,
    ) -> None:
        self._store = store
        self._leases = RunLeases(store, lease_times)
        self._poll_seconds = lease_times.poll_seconds
        self._suites = suites
        self._peers = peers
        self._allowances = allowances
        self._maker = RunMaker(
            store,
            suites,
            peers,
            default_concurrency=default_concurrency,
            patience_seconds=patience_seconds,
            allowances=allowances,
        )
        self._patience_seconds = patience_seconds
        self._places = asyncio.Semaphore(parallel_runs)
        self._live: LiveWork[Run] = LiveWork(poll_seconds=lease_times.poll_seconds, patience_seconds=patience_seconds)
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._may_have_work = asyncio.Event()
        self._own_tasks: list[asyncio.Task[None]] = []
        self._shards = ShardStore(store.engine)
        self._blocks = BlockStore(store.engine)
        self._helper = Helper(
            store,
            self._shards,
            self._blocks,
            self._leases,
            self._tasks_of,
            peers,
            has_room=lambda: not self._places.locked(),
            patience_seconds=patience_seconds,
        )

    async def start(self) -> None:
        """Begin to work on runs, those first that an earlier process or another replica left unfinished."""
        await self._leases.start()
        self._own_tasks = [
            asyncio.create_task(self._live.announce()),
            asyncio.create_task(self._take_runs()),
        ]
        if self._store.is_shared:
            self._own_tasks.append(asyncio.create_task(self._helper.help_others()))

    async def stop(self) -> None:
        """Put all runs down where they are; another replica, or the next start, takes them up again."""
        # First those that take runs, so that no job begins meanwhile.
        for tasks in (self._own_tasks, list(self._jobs.values())):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._leases.stop()
            await self._shards.give_back(self._leases.owner)
        except RunsUnavailableError as error:
            _LOG.warning("leases_not_given_back", message=error.message)

    def open_runs(self) -> Sequence[Run]:
        """Return those that are worked on here, as they stand, in the order in which they were taken up."""
        return self._live.here()

    async def create(self, request: RunRequest) -> Run:
        """Store and start a run; see ``RunMaker.make`` for the errors."""
        run = await self._maker.make(request)
        self._may_have_work.set()
        return self._live.newest(run.run_id, run)

    async def get(self, run_id: str) -> Run:
        """Read a run as it stands; raises NotFoundError with the nearest names."""
        run = self._live.get(run_id) or await self._store.get(run_id)
        if run is None:
            raise not_found("run", run_id, await self._store.ids())
        return run

    async def page(self, *, size: int, model: str = "", after: tuple[float, str] | None = None) -> Sequence[Run]:
        """Runs, newest first; see RunStore.page."""
        runs = await self._store.page(size=size, model=model, after=after)
        return [self._live.newest(run.run_id, run) for run in runs]

    async def cancel(self, run_id: str) -> Run:
        """Stop a run for good, whichever replica works on it; outcomes that the ledger has stay there."""
        run = await self.get(run_id)
        live = await self._drop(run_id)
        fence = await self._store.cancel(run_id, None if live is None else live.progress)
        await self._drop(run_id)  # it may have been taken meanwhile
        self._live.tell()
        if fence is not None:
            if run.state is not RunState.CANCELLED:
                _LOG.info("run_ended", run=run.name, state=RunState.CANCELLED.value)
            # Also if it was cancelled before: whoever did so may have died here, or not have reached the ledger.
            await self._shut_out(run, fence)
            await self._clear(run_id)
        return await self.get(run_id)

    async def _drop(self, run_id: str) -> Run | None:
        """Stop working on a run here, if we do, and return where it stands."""
        if (job := self._jobs.get(run_id)) is not None:
            job.cancel()
            await asyncio.wait([job])
        return self._live.pop(run_id)

    async def _shut_out(self, run: Run, fence: int) -> None:
        """Let the ledger refuse what a replica sends that does not know yet that a run was cancelled."""
        shut_out = partial(self._peers.ledger.fenced(fence).append, run.name, ())
        try:
            await wait_out(shut_out, patience_seconds=child_timeout(_LONGEST_FENCE_SECONDS))
        except FleetError as error:
            # That replica learns of it within seconds anyway.
            _LOG.warning("run_not_shut_out", run=run.name, message=error.message)

    def watch(self, run_id: str) -> AsyncGenerator[Run, None]:
        """The run now, and again whenever it has changed, until it has ended."""
        return self._live.watch(run_id, self.get)

    async def _take_runs(self) -> None:
        """Take runs whenever there is a place for one, until cancelled."""
        while True:
            await self._places.acquire()
            # Before the look, so that a run which is made meanwhile is not overlooked.
            self._may_have_work.clear()
            try:
                claim = await self._leases.claim()
            except Exception as error:  # noqa: BLE001 - no problem with one run may keep all others waiting for ever
                _LOG.warning("no_run_taken", exc_info=None if isinstance(error, RunsUnavailableError) else error)
                claim = None
            if claim is not None:
                # Our own lease may have ended, while the list of runs was away: the work goes on under the new one.
                await self._drop(claim.run.run_id)
                self._launch(claim)
                continue
            self._places.release()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._may_have_work.wait()

    def _launch(self, claim: Claim) -> None:
        run = claim.run
        self._live.note(run.run_id, run)
        with bind_deadline(None), bind_ids(run_id=run.run_id, caller=run.caller):
            job = asyncio.create_task(self._execute(claim), name=run.name)
        self._jobs[run.run_id] = job
        job.add_done_callback(partial(self._put_down, run.run_id))

    def _put_down(self, run_id: str, job: asyncio.Task[None]) -> None:
        self._jobs.pop(run_id, None)
        self._places.release()

    async def _execute(self, claim: Claim) -> None:
        try:
            failure = await self._failure_of(claim)
            await self._end(claim, RunState.FAILED if failure else RunState.SUCCEEDED, failure)
        except (LeaseLostError, RunsUnavailableError) as error:
            # Somebody else's run by now, or it will be: whoever takes it finds in the ledger what was done.
            self._live.pop(claim.run.run_id)
            self._live.tell()
            _LOG.warning("run_left", run=claim.run.name, epoch=claim.epoch, message=error.message)
            await self._give_shards_back(claim.run.run_id)

    async def _failure_of(self, claim: Claim) -> RunFailure | None:
        """Work on a run to its end; return why it could not go on, if so."""
        try:
            await self._leases.hold(claim, self._work_on(claim), lambda: self._live[claim.run.run_id])
        except (LeaseLostError, RunsUnavailableError):
            raise
        except Exception as error:  # noqa: BLE001 - a run's fault ends that run, never the service
            failure = RunFailure.from_error(as_fleet_error(error))
            _LOG.warning("run_failed", reason=failure.reason, message=failure.message)
            return failure
        return None

    async def _tasks_of(self, run: Run) -> Sequence[TaskItems]:
        return await tasks_of(run, self._suites, self._peers.generator, patience_seconds=self._patience_seconds)

    async def _work_on(self, claim: Claim) -> None:
        while True:
            try:
                return await self._attempt(claim)
            except LedgerReplacedError as error:
                # Its shards may count outcomes that are gone; whoever helps with one finds out the same.
                _LOG.warning("ledger_replaced", run=claim.run.name, message=error.message)
                if self._store.is_shared:
                    await wait_out(partial(self._clear, claim.run.run_id), patience_seconds=self._patience_seconds)
                await asyncio.sleep(RETRY_AFTER_SECONDS)

    async def _attempt(self, claim: Claim) -> None:
        """Work on a run from where the ledger has it; raises LedgerReplacedError if that goes back."""
        run = self._live[claim.run.run_id]
        tasks = await self._tasks_of(run)
        board: StoredBoard | None = None
        blocks: StoredBlocks | None = None
        ledger: Ledger = self._peers.ledger.fenced(claim.fence)
        if self._store.is_shared:
            board = StoredBoard(
                self._shards,
                run.run_id,
                self._leases.owner,
                lease_seconds=self._leases.times.lease_seconds,
                read_fence=partial(self._store.fence, run.run_id, claim.epoch),
            )
            blocks = StoredBlocks(self._blocks, self._shards, run.run_id, claim.epoch)
            # Who has some of them stops before it is told the new fence.
            await wait_out(blocks.withdraw_all, patience_seconds=self._patience_seconds)
            ledger = FencedLedger(self._peers.ledger, claim.fence, board.confirm, board.may_write)
        ledger = WatchedLedger(ledger)
        # Before the ledger is read: from here on it takes nothing more from whoever had the run before.
        await wait_out(partial(ledger.append, run.name, ()), patience_seconds=self._patience_seconds)
        peers = dataclasses.replace(self._peers, ledger=ledger)
        executor = RunExecutor(
            run,
            peers,
            on_change=partial(self._live.note, run.run_id),
            patience_seconds=self._patience_seconds,
            earlier_runs=await earlier_runs(run, tasks, self._store),
            allowance=None if self._allowances is None else self._allowances.of(run.caller or ANONYMOUS),
            board=board,
            blocks=blocks,
        )
        executor.begin(tasks)
        await self._save(executor.run, claim.epoch, lease_seconds=self._leases.times.lease_seconds)
        _LOG.info("run_started", suite=run.suite, model=run.model, items=sum(len(each.items) for each in tasks))
        await executor.execute()
        # Under the lease, however long a judge of the next tier is away.
        self._live.note(run.run_id, await self._with_next_tier(executor.run))

    async def _save(self, run: Run, epoch: int, *, lease_seconds: float | None = None) -> None:
        save = partial(self._store.save, run, epoch, lease_seconds=lease_seconds)
        await wait_out(save, patience_seconds=self._patience_seconds)

    async def _with_next_tier(self, run: Run) -> Run:
        """Let the next tier follow, if one does; the run has succeeded even if that cannot be made."""
        # However long it takes to make: of the time that all tiers have, this run has used no more.
        make = partial(self._maker.make_next, dataclasses.replace(run, end_time=time.time()))
        try:
            made = await wait_out(make, patience_seconds=self._patience_seconds)
        except RunsUnavailableError:
            raise
        except Exception as fault:  # noqa: BLE001 - what the run itself was to find out is known
            error = as_fleet_error(fault)
            _LOG.warning("next_tier_not_made", run=run.name, reason=error.reason, message=error.message)
            return run
        return dataclasses.replace(run, escalation=made.escalation)

    async def _end(self, claim: Claim, state: RunState, failure: RunFailure | None) -> None:
        run_id = claim.run.run_id
        ended = dataclasses.replace(self._live[run_id], state=state, failure=failure, end_time=time.time())
        try:
            await self._save(ended, claim.epoch)
        except LeaseLostError:
            stored = await wait_out(partial(self._store.get, run_id), patience_seconds=self._patience_seconds)
            if stored is None or (stored.state, stored.end_time) != (state, ended.end_time):
                raise
            # It was saved, and the connection broke before that was said.
        self._may_have_work.set()
        if self._store.is_shared:
            await self._forget_shards(run_id)
        self._live.pop(run_id)
        self._live.tell()
        _LOG.info("run_ended", run=ended.name, state=state.value)

    async def _give_shards_back(self, run_id: str) -> None:
        with contextlib.suppress(RunsUnavailableError):
            await self._shards.give_back(self._leases.owner, run_id)

    async def _forget_shards(self, run_id: str) -> None:
        try:
            await self._clear(run_id)
        except RunsUnavailableError as error:
            # Nobody takes shards of a run that has ended.
            _LOG.warning("shards_not_forgotten", run=f"runs/{run_id}", message=error.message)

    async def _clear(self, run_id: str) -> None:
        await self._shards.clear(run_id)
        await self._blocks.clear(run_id)
