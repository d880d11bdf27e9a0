"""All runs of this process: creates, executes, resumes, cancels and watches them."""

import asyncio
import contextlib
import dataclasses
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Protocol

import structlog

from services.evaluation.runs.executor import Peers, RunExecutor, TaskItems
from services.evaluation.runs.record import Run, RunFailure, RunRequest, RunState, TaskProgress, new_run_id
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from services.runtime.callers import current_caller
from services.runtime.calls import bind_deadline, bind_ids
from services.runtime.deadlines import child_timeout
from services.runtime.errors import AlreadyExistsError, FailedPreconditionError, as_fleet_error, not_found

_LONGEST_CREATE_SECONDS = 30.0
"""How long a run waits to be made for a model whose content is still being read, or a service that restarts."""

_LOG = structlog.stdlib.get_logger(__name__)


class SuiteBook(Protocol):
    """Where runs get their suites and items from."""

    async def resolve(self, suite: str, tasks: Sequence[str] = ()) -> Suite:
        """The suite, or only some of its tasks; raises NotFoundError with the nearest names."""
        ...

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        """Each task's items in the run's seeded order; raises typed errors for data that cannot be used."""
        ...


class RunManager:
    """Owns every run from its creation to its end; at most ``parallel_runs`` are executed at once."""

    def __init__(
        self,
        store: RunStore,
        suites: SuiteBook,
        peers: Peers,
        *,
        parallel_runs: int,
        default_concurrency: int,
        patience_seconds: float,
    ) -> None:
        self._store = store
        self._suites = suites
        self._peers = peers
        self._default_concurrency = default_concurrency
        self._patience_seconds = patience_seconds
        self._places = asyncio.Semaphore(parallel_runs)
        self._live: dict[str, Run] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Condition()
        self._create_lock = asyncio.Lock()
        self._unsent_change = asyncio.Event()
        self._announcer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on with every run that an earlier process left unfinished."""
        self._announcer = asyncio.create_task(self._announce_changes())
        for run in await self._store.unfinished():
            self._launch(run)

    async def stop(self) -> None:
        """Put all runs down where they are; the next start takes them up again."""
        jobs = [*self._jobs.values(), *([self._announcer] if self._announcer else [])]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def create(self, request: RunRequest) -> Run:
        """Store and start a run.

        Raises:
            NotFoundError: suite, task, scorer or model does not exist.
            AlreadyExistsError: the run id is taken.
        """
        if (earlier := await self._earlier(request)) is not None:
            return earlier
        suite = await self._suites.resolve(request.suite, request.tasks)
        await self._peers.scorers.check({use.scorer for task in suite.tasks for use in task.spec.scorers})
        # Before the lock: the content of a model that was just registered may take a while to be read.
        digest = await wait_out(
            partial(self._peers.generator.model_digest, request.model),
            patience_seconds=child_timeout(min(self._patience_seconds, _LONGEST_CREATE_SECONDS)),
        )
        async with self._create_lock:
            if (earlier := await self._earlier(request)) is not None:
                return earlier
            run = Run(
                run_id=request.run_id or new_run_id(suite.name),
                suite=suite.name,
                suite_digest=suite.digest,
                model=request.model,
                model_digest=digest,
                seed=_seed_of(suite) if request.seed is None else request.seed,
                concurrency=request.concurrency or self._default_concurrency,
                create_time=time.time(),
                item_limit=request.item_limit,
                tasks=request.tasks,
                request_id=request.request_id,
                progress=tuple(TaskProgress(task.name) for task in suite.tasks),
                caller=current_caller(),
            )
            if await self._store.get(run.run_id) is not None:
                raise AlreadyExistsError(
                    f"run {run.run_id!r} exists already; choose another run_id or leave it out",
                    reason="RUN_EXISTS",
                    metadata={"run": run.name},
                )
            await self._store.add(run)
            self._launch(run)
            return run

    async def _earlier(self, request: RunRequest) -> Run | None:
        """Return the run that a request with this id has made already."""
        earlier = await self._store.find_request(request.request_id) if request.request_id else None
        return None if earlier is None else self._live.get(earlier.run_id, earlier)

    async def get(self, run_id: str) -> Run:
        """Read a run as it stands; raises NotFoundError with the nearest names."""
        run = self._live.get(run_id) or await self._store.get(run_id)
        if run is None:
            raise not_found("run", run_id, await self._store.ids())
        return run

    async def page(self, *, size: int, model: str = "", after: tuple[float, str] | None = None) -> Sequence[Run]:
        """Runs, newest first; see RunStore.page."""
        runs = await self._store.page(size=size, model=model, after=after)
        return [self._live.get(run.run_id, run) for run in runs]

    async def cancel(self, run_id: str) -> Run:
        """Stop a run for good; outcomes that the ledger has stay there."""
        run = await self.get(run_id)
        job = self._jobs.get(run_id)
        if run.state.is_final or job is None:
            return run
        job.cancel()
        await asyncio.wait([job])
        run = await self.get(run_id)
        if run.state.is_final:
            return run
        return await self._end(run, RunState.CANCELLED)

    async def watch(self, run_id: str) -> AsyncGenerator[Run, None]:
        """The run now, and again whenever it has changed, until it has ended."""
        run = await self.get(run_id)
        yield run
        while not run.state.is_final:
            seen = run
            async with self._changed:
                while (run := self._live.get(run_id, seen)) == seen and run_id in self._live:
                    await self._changed.wait()
            if run == seen:
                run = await self.get(run_id)
            if run != seen:
                yield run

    def _launch(self, run: Run) -> None:
        self._live[run.run_id] = run
        # The run goes on after the call that created it, and must not end with that call's deadline.
        with bind_deadline(None), bind_ids(run_id=run.run_id, caller=run.caller):
            job = asyncio.create_task(self._execute(run), name=run.name)
        self._jobs[run.run_id] = job
        job.add_done_callback(lambda _: self._jobs.pop(run.run_id, None))

    async def _execute(self, run: Run) -> None:
        try:
            async with self._places:
                await self._work_on(run)
            await self._end(self._live[run.run_id], RunState.SUCCEEDED)
        except Exception as error:  # noqa: BLE001 - a run's fault ends that run, never the service
            failure = RunFailure.from_error(as_fleet_error(error))
            _LOG.warning("run_failed", reason=failure.reason, message=failure.message)
            await self._end(self._live[run.run_id], RunState.FAILED, failure)

    async def _work_on(self, run: Run) -> None:
        suite = await self._suites.resolve(run.suite, run.tasks)
        if suite.digest != run.suite_digest:
            raise FailedPreconditionError(
                f"suite {run.suite!r} was changed while the run was in progress; start a new run",
                reason="SUITE_CHANGED",
                metadata={"suite": run.suite, "expected_digest": run.suite_digest, "found_digest": suite.digest},
            )
        digest = await wait_out(
            partial(self._peers.generator.model_digest, run.model), patience_seconds=self._patience_seconds
        )
        if digest != run.model_digest:
            raise FailedPreconditionError(
                f"{run.model} was replaced while the run was in progress; start a new run",
                reason="MODEL_CHANGED",
                metadata={"model": run.model, "expected_digest": run.model_digest, "found_digest": digest},
            )
        tasks = await self._suites.draw(suite, seed=run.seed, limit=run.item_limit)
        executor = RunExecutor(run, self._peers, on_change=self._note, patience_seconds=self._patience_seconds)
        executor.begin(tasks)
        await self._store.save(executor.run)
        _LOG.info("run_started", suite=run.suite, model=run.model, items=sum(len(each.items) for each in tasks))
        saved = asyncio.create_task(self._save_now_and_then(run.run_id))
        try:
            await executor.execute()
        finally:
            saved.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saved

    async def _save_now_and_then(self, run_id: str) -> None:
        """Keep the stored progress roughly fresh for readers after a crash; the ledger stays the truth."""
        while True:
            await asyncio.sleep(5.0)
            await self._store.save(self._live[run_id])

    def _note(self, run: Run) -> None:
        self._live[run.run_id] = run
        self._unsent_change.set()

    async def _announce_changes(self) -> None:
        """Wake the watchers, at most ten times a second however fast items come."""
        while True:
            await self._unsent_change.wait()
            self._unsent_change.clear()
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(0.1)

    async def _end(self, run: Run, state: RunState, failure: RunFailure | None = None) -> Run:
        ended = dataclasses.replace(run, state=state, failure=failure, end_time=time.time())
        await self._store.save(ended)
        self._live.pop(run.run_id, None)
        self._unsent_change.set()
        _LOG.info("run_ended", run=run.name, state=state.value)
        return ended


def _seed_of(suite: Suite) -> int:
    """The same for every model, so that all meet the same items in the same order."""
    return int.from_bytes(hashlib.sha256(f"suite\0{suite.name}".encode()).digest()[:6], "big")
