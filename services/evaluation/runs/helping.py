"""A replica that has room helps with the runs of others, shard by shard."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs.block_store import BlockStore, HelperBoard
from services.evaluation.runs.fencing import FencedLedger
from services.evaluation.runs.known_outcomes import KnownOutcomes
from services.evaluation.runs.leases import RunLeases
from services.evaluation.runs.ledger_writer import LedgerWriter
from services.evaluation.runs.open_shards import ShardTask
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.pipeline import pipeline_of
from services.evaluation.runs.record import Run
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shard_work import ShardCrew
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.stored_board import StoredBoard
from services.evaluation.runs.task_items import TaskItems
from services.evaluation.runs.watched_ledger import WatchedLedger
from services.runtime.calls import bind_deadline, bind_ids
from services.runtime.errors import FailedPreconditionError, as_fleet_error

_LOG = structlog.stdlib.get_logger(__name__)

_MOST_LEFT_RUNS = 100
_LINGER_SECONDS = 10.0
"""How long to wait for the next block of a run whose items are drawn: to read its data again costs more."""


class Helper:
    """Takes shards of runs that other replicas own, of one run at a time.

    What goes wrong here ends no run: the shards go back, and the run's owner meets the same problem if it is one.

    Args:
        store: the list of runs.
        shards: of all runs.
        blocks: of all runs whose items are drawn.
        leases: of this replica.
        load: returns a run's tasks with their items; raises FleetError if they are not what the run began with.
        peers: the other services.
        has_room: whether this replica could work on another run.
        patience_seconds: how long to wait for a service that is away.

    Attributes:
        is_helping: whether it has taken up a run.
    """

    def __init__(
        self,
        store: RunStore,
        shards: ShardStore,
        blocks: BlockStore,
        leases: RunLeases,
        load: Callable[[Run], Awaitable[Sequence[TaskItems]]],
        peers: Peers,
        *,
        has_room: Callable[[], bool],
        patience_seconds: float,
    ) -> None:
        self._store = store
        self._shards = shards
        self._blocks = blocks
        self._leases = leases
        self._load = load
        self._peers = peers
        self._has_room = has_room
        self._patience_seconds = patience_seconds
        self._left: dict[str, None] = {}
        self.is_helping = False

    async def help_others(self) -> None:
        """Help whoever needs it, until cancelled."""
        while True:
            await asyncio.sleep(self._leases.times.poll_seconds)
            try:
                if self._has_room() and (run := await self._in_need()) is not None:
                    with bind_deadline(None), bind_ids(run_id=run.run_id, caller=run.caller):
                        await self._help(run)
            except (LeaseLostError, RunsUnavailableError) as error:
                _LOG.info("shards_left", message=error.message)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run's owner deals with it
                _LOG.warning("no_help", exc_info=error)

    async def _in_need(self) -> Run | None:
        """A run that has shards which nobody works on, else one whose owner will have blocks to give."""
        owner, left = self._leases.owner, [*self._left]
        found = await self._shards.in_need(owner, without=left)
        return found if found is not None else await self._blocks.in_want(owner, without=left)

    async def _help(self, run: Run) -> None:
        self.is_helping = True
        try:
            try:
                await self._work_on(run)
            finally:
                # Before its blocks are free again: else their owner hands out another one, to nobody.
                with contextlib.suppress(RunsUnavailableError):
                    await self._blocks.leave(self._leases.owner, run.run_id)
        except RunsUnavailableError:
            raise
        except BaseException as error:
            has_failed = isinstance(error, Exception) and not isinstance(error, LeaseLostError)
            if has_failed:
                # Others get on better, and we do not come back.
                self._left[run.run_id] = None
                for forgotten in list(self._left)[:-_MOST_LEFT_RUNS]:
                    del self._left[forgotten]
                _LOG.warning("help_ended", run=run.name, message=as_fleet_error(error).message)
            # Else their leases end by themselves; a cancellation must get through.
            with contextlib.suppress(RunsUnavailableError):
                await self._shards.give_back(self._leases.owner, run.run_id)
            if not has_failed:
                raise
        finally:
            self.is_helping = False

    async def _work_on(self, run: Run) -> None:
        tasks = await self._load(run)
        _check_same_data(run, tasks)
        pipelines = {
            each.task.name: pipeline_of(run, each.task, self._peers, patience_seconds=self._patience_seconds)
            for each in tasks
        }
        read_fence = partial(self._store.fence, run.run_id)
        board = self._board_of(run, read_fence)
        ledger = WatchedLedger(FencedLedger(self._peers.ledger, await read_fence(), board.confirm, board.may_write))
        crew = ShardCrew(
            run.name,
            {each.task.name: ShardTask(pipelines[each.task.name], each.items, each.population) for each in tasks},
            board,
            ledger,
            KnownOutcomes({name: each.sample_count for name, each in pipelines.items()}),
            concurrency=run.concurrency,
            is_owner=False,
            patience_seconds=self._patience_seconds,
            linger_seconds=_LINGER_SECONDS if run.goal.draws else 0.0,
        )
        writer = LedgerWriter(
            ledger,
            run.name,
            on_saved=crew.note,
            on_decision=lambda _: None,
            patience_seconds=self._patience_seconds,
        )
        _LOG.info("helping", run=run.name)

        async def work() -> None:
            await crew.work(writer.write)
            await writer.finish()

        await _first_error_of(work(), writer.drain())

    def _board_of(self, run: Run, read_fence: Callable[[], Awaitable[int]]) -> StoredBoard:
        owner, lease_seconds = self._leases.owner, self._leases.times.lease_seconds
        if not run.goal.draws:
            return StoredBoard(self._shards, run.run_id, owner, lease_seconds=lease_seconds, read_fence=read_fence)
        return HelperBoard(
            self._blocks, self._shards, run.run_id, owner, lease_seconds=lease_seconds, read_fence=read_fence
        )


async def _first_error_of(*works: Awaitable[None]) -> None:
    """Do some work side by side; the first error ends all of it, and a cancellation gets through beside any error."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        # Not a task group: one of Python 3.11 that has an error forgets that it was cancelled too, and a helper that
        # was told to stop would go on for good.
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None


def _check_same_data(run: Run, tasks: Sequence[TaskItems]) -> None:
    expected = {each.task: each.data_digest for each in run.progress}
    if expected != {each.task.name: each.data_digest for each in tasks}:
        raise FailedPreconditionError(f"{run.name} was begun with other data than are here", reason="DATA_DIFFERS")
