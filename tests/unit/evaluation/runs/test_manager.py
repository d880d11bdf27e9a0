"""Runs are created once, go on after a restart, can be cancelled, and are watched to their end."""

import asyncio
import copy
import dataclasses
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.runs.executor import TaskItems
from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.record import RunRequest, RunState
from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from services.runtime.callers import current_caller
from services.runtime.calls import bind_deadline, bind_ids, current_scope
from services.runtime.database import open_database, sqlite_url
from services.runtime.deadlines import remaining_seconds
from services.runtime.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
    not_found,
)
from tests.patience import LONGEST_WAIT_SECONDS, until

MIGRATIONS = Path(__file__).parents[4] / "services" / "evaluation" / "migrations"
REQUEST = RunRequest(suite="demo", model="models/tiny")


class Book:
    """A suite book with one suite whose items are given."""

    def __init__(self, suite: Suite, items: Sequence[Any]) -> None:
        self.suite = suite
        self.items = items
        self.data_digest = "rows-1"
        self.error: Exception | None = None
        self.draws: list[tuple[int, int | None]] = []

    async def resolve(self, suite: str, tasks: Sequence[str] = ()) -> Suite:
        if suite != self.suite.name:
            raise not_found("suite", suite, [self.suite.name])
        return self.suite

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        if self.error is not None:
            raise self.error
        self.draws.append((seed, limit))
        return [TaskItems(suite.tasks[0], self.items[:limit], self.data_digest)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    engine = await open_database(sqlite_url(tmp_path / "runs.sqlite"), migrations=MIGRATIONS, durable=False)
    yield RunStore(engine)
    await engine.dispose()


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    suite = Suite("demo", "a suite", (make_task(),))
    return Book(suite, [make_item(f"item {index}") for index in range(10)])


# Leases end soon and are looked at often, so that no test waits for the clock.
TIMES = LeaseTimes(lease_seconds=1.0, renewal_seconds=0.1, poll_seconds=0.05)


class SharedStore(RunStore):
    """The list of runs as replicas share it, though it is in a file: nobody may take all leases for ended."""

    @property
    def is_shared(self) -> bool:
        return True


def manager(store: RunStore, book: Book, fleet: Any, parallel_runs: int = 2) -> RunManager:
    return RunManager(
        store,
        book,
        fleet.peers,
        parallel_runs=parallel_runs,
        default_concurrency=4,
        patience_seconds=5.0,
        lease_times=TIMES,
    )


async def end_of(runs: RunManager, run_id: str) -> Any:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return [run async for run in runs.watch(run_id)][-1]


async def test_a_run_is_worked_on_to_its_end_and_stays_readable(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    created = await runs.create(REQUEST)
    ended = await end_of(runs, created.run_id)
    await runs.stop()

    assert ended.state is RunState.SUCCEEDED
    assert ended.model_digest == "digest-1"
    assert (ended.progress[0].item_count, ended.progress[0].scored_count) == (10, 10)
    assert ended.create_time <= ended.start_time <= ended.end_time
    assert await manager(store, book, fleet).get(created.run_id) == ended


async def test_a_run_waits_for_a_model_whose_content_is_still_being_read(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [UnavailableError("loading", reason="MODEL_LOADING", retry_after_seconds=0.01)]

    async def model_digest(model: str) -> str:
        if problems:
            raise problems.pop()
        return "digest-1"

    monkeypatch.setattr(fleet.generator, "model_digest", model_digest)
    runs = manager(store, book, fleet)
    await runs.start()
    created = await runs.create(REQUEST)
    assert created.model_digest == "digest-1"
    assert (await end_of(runs, created.run_id)).state is RunState.SUCCEEDED
    await runs.stop()


async def test_a_run_outlives_the_deadline_of_the_call_that_created_it(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float | None, str | None]] = []
    generate = fleet.generator.generate

    async def note_scope(*arguments: Any) -> Any:
        seen.append((remaining_seconds(), current_scope().ids.run_id))
        return await generate(*arguments)

    monkeypatch.setattr(fleet.generator, "generate", note_scope)
    runs = manager(store, book, fleet)
    await runs.start()
    with bind_deadline(30.0):
        created = await runs.create(REQUEST)
    await end_of(runs, created.run_id)
    await runs.stop()

    assert seen == [(None, created.run_id)] * 10


async def test_a_run_is_done_in_the_name_of_its_caller_also_after_a_restart(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    busy = asyncio.Event()
    generate = fleet.generator.generate

    async def note_caller(*arguments: Any) -> Any:
        seen.append(current_caller())
        busy.set()
        return await generate(*arguments)

    monkeypatch.setattr(fleet.generator, "generate", note_caller)
    fleet.generator.gate = asyncio.Event()
    runs = manager(store, book, fleet)
    await runs.start()
    with bind_ids(caller="team/a"):
        created = await runs.create(REQUEST)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await busy.wait()
    await runs.stop()
    fleet.generator.gate.set()
    restarted = manager(store, book, fleet)
    await restarted.start()
    await end_of(restarted, created.run_id)
    await restarted.stop()
    assert len(seen) > 10
    assert set(seen) == {"team/a"}


async def test_all_models_meet_the_same_items_and_a_given_seed_is_kept(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    first = await runs.create(REQUEST)
    second = await runs.create(REQUEST)
    third = await runs.create(RunRequest("demo", "models/tiny", seed=-5, item_limit=3))
    assert first.run_id != second.run_id
    assert first.seed == second.seed
    assert (await end_of(runs, third.run_id)).progress[0].item_count == 3
    await runs.stop()
    assert (-5, 3) in book.draws


async def test_a_repeated_request_id_gives_the_first_run(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    request = RunRequest("demo", "models/tiny", request_id=str(uuid.uuid4()))
    first, second = await asyncio.gather(runs.create(request), runs.create(request))
    await end_of(runs, first.run_id)
    third = await runs.create(request)
    await runs.stop()
    assert first.run_id == second.run_id == third.run_id


async def test_a_taken_run_id_an_unknown_suite_and_an_unknown_model_are_typed(
    store: RunStore, book: Book, fleet: Any
) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    await runs.create(RunRequest("demo", "models/tiny", run_id="mine"))
    with pytest.raises(AlreadyExistsError, match="mine"):
        await runs.create(RunRequest("demo", "models/tiny", run_id="mine"))
    with pytest.raises(NotFoundError, match="did you mean 'demo'"):
        await runs.create(RunRequest("dmeo", "models/tiny"))
    with pytest.raises(NotFoundError, match="models/tiny"):
        await runs.create(RunRequest("demo", "models/tny"))
    with pytest.raises(NotFoundError, match="mine"):
        await runs.get("mne")
    await runs.stop()


async def test_an_unknown_scorer_is_refused_before_anything_is_spent(
    store: RunStore, book: Book, fleet: Any, make_task: Any
) -> None:
    task = make_task(scorers=[{"scorer": "exact_macth", "metrics": ["exact_match"]}])
    book.suite = Suite("demo", "a suite", (task,))
    with pytest.raises(NotFoundError, match="did you mean 'exact_match'"):
        await manager(store, book, fleet).create(REQUEST)


async def test_an_unknown_policy_is_refused_before_anything_is_spent(
    store: RunStore, book: Book, fleet: Any, make_task: Any
) -> None:
    book.suite = Suite("demo", "a suite", (make_task(safety={"policy": "strikt"}),))
    with pytest.raises(NotFoundError, match="did you mean 'strict'"):
        await manager(store, book, fleet).create(REQUEST)


async def test_a_stopped_process_leaves_its_run_to_the_next_one(store: RunStore, book: Book, fleet: Any) -> None:
    fleet.generator.gate = asyncio.Event()
    first = manager(store, book, fleet)
    await first.start()
    run = await first.create(REQUEST)
    async for seen in first.watch(run.run_id):
        if seen.state is RunState.RUNNING:
            break
    await first.stop()
    stored = await store.get(run.run_id)
    assert stored is not None
    assert not stored.state.is_final

    fleet.generator.gate = None
    second = manager(store, book, fleet)
    await second.start()
    ended = await end_of(second, run.run_id)
    await second.stop()
    assert ended.state is RunState.SUCCEEDED
    assert len(fleet.ledger.rows) == 10
    assert len(fleet.generator.asked) == len(set(fleet.generator.asked)) == 10


@pytest.mark.parametrize("what", ["suite", "model", "data"])
async def test_a_run_does_not_go_on_with_another_suite_or_model(
    store: RunStore, book: Book, fleet: Any, make_task: Any, what: str
) -> None:
    fleet.generator.gate = asyncio.Event()
    first = manager(store, book, fleet)
    await first.start()
    run = await first.create(REQUEST)
    async for seen in first.watch(run.run_id):
        if seen.state is RunState.RUNNING:
            break
    await first.stop()

    if what == "suite":
        book.suite = Suite("demo", "a suite", (make_task(prompt="Please: {{ text }}"),))
    elif what == "data":
        book.data_digest = "rows-2"
    else:
        fleet.generator.digest = "digest-2"
    second = manager(store, book, fleet)
    await second.start()
    ended = await end_of(second, run.run_id)
    await second.stop()
    assert ended.state is RunState.FAILED
    assert ended.failure.reason == f"{what.upper()}_CHANGED"
    assert fleet.ledger.rows == {}


async def test_a_cancelled_run_ends_and_stays_cancelled(store: RunStore, book: Book, fleet: Any) -> None:
    fleet.generator.gate = asyncio.Event()
    runs = manager(store, book, fleet)
    await runs.start()
    run = await runs.create(REQUEST)
    watching = asyncio.create_task(end_of(runs, run.run_id))
    cancelled = await runs.cancel(run.run_id)
    assert cancelled.state is RunState.CANCELLED
    assert (await watching).state is RunState.CANCELLED
    assert (await runs.cancel(run.run_id)).state is RunState.CANCELLED
    await runs.stop()
    assert list(await store.unfinished()) == []


async def test_data_that_cannot_be_used_fails_the_run_with_its_reason(store: RunStore, book: Book, fleet: Any) -> None:
    book.error = FailedPreconditionError("no rows", reason="DATA_EMPTY")
    runs = manager(store, book, fleet)
    await runs.start()
    ended = await end_of(runs, (await runs.create(REQUEST)).run_id)
    await runs.stop()
    assert ended.state is RunState.FAILED
    assert (ended.failure.reason, ended.failure.message) == ("DATA_EMPTY", "no rows")


async def test_a_bug_fails_its_run_without_a_traceback_for_the_caller(store: RunStore, book: Book, fleet: Any) -> None:
    book.error = ZeroDivisionError("secret detail")
    runs = manager(store, book, fleet)
    await runs.start()
    ended = await end_of(runs, (await runs.create(REQUEST)).run_id)
    await runs.stop()
    assert ended.failure.reason == "INTERNAL_ERROR"
    assert "secret" not in ended.failure.message


async def test_runs_beyond_the_limit_wait_for_a_place(store: RunStore, book: Book, fleet: Any) -> None:
    fleet.generator.gate = asyncio.Event()
    runs = manager(store, book, fleet, parallel_runs=1)
    await runs.start()
    first = await runs.create(REQUEST)
    second = await runs.create(REQUEST)
    async for seen in runs.watch(first.run_id):
        if seen.state is RunState.RUNNING:
            break
    assert (await runs.get(second.run_id)).state is RunState.PENDING
    fleet.generator.gate.set()
    assert (await end_of(runs, second.run_id)).state is RunState.SUCCEEDED
    await runs.stop()


async def test_pages_show_every_run_once_newest_first(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    created = [(await runs.create(REQUEST)).run_id for _ in range(7)]
    shown: list[str] = []
    after = None
    while page := await runs.page(size=3, after=after):
        shown += [run.run_id for run in page]
        after = (page[-1].create_time, page[-1].run_id)
    await runs.stop()
    assert shown == created[::-1]
    assert list(await runs.page(size=3, model="models/other")) == []


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[SharedStore]:
    engine = await open_database(sqlite_url(tmp_path / "shared.sqlite"), migrations=MIGRATIONS, durable=False)
    yield SharedStore(engine)
    await engine.dispose()


async def begun(runs: RunManager, run_id: str) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        async for seen in runs.watch(run_id):
            if seen.state is RunState.RUNNING:
                return


async def test_any_replica_works_on_shows_and_cancels_the_runs_of_all(
    shared: SharedStore, book: Book, fleet: Any
) -> None:
    fleet.generator.gate = asyncio.Event()
    idle, busy = manager(shared, book, fleet), manager(shared, book, fleet)
    await busy.start()
    run = await idle.create(REQUEST)
    await begun(idle, run.run_id)
    assert (await idle.get(run.run_id)).progress[0].item_count == 10
    watching = asyncio.create_task(end_of(busy, run.run_id))
    assert (await idle.cancel(run.run_id)).state is RunState.CANCELLED
    assert (await watching).state is RunState.CANCELLED
    fleet.generator.gate.set()
    other = await idle.create(REQUEST)
    assert (await end_of(idle, other.run_id)).state is RunState.SUCCEEDED
    await busy.stop()
    assert {key[0] for key in fleet.ledger.rows} == {other.name}


async def test_a_replica_that_stops_hands_its_runs_over_at_once(shared: SharedStore, book: Book, fleet: Any) -> None:
    fleet.generator.gate = asyncio.Event()
    first, second = manager(shared, book, fleet), manager(shared, book, fleet, parallel_runs=1)
    await first.start()
    run = await first.create(REQUEST)
    await begun(first, run.run_id)
    await second.start()
    assert await shared.claim("anybody", lease_seconds=60) is None
    await first.stop()
    fleet.generator.gate.set()
    assert (await end_of(second, run.run_id)).state is RunState.SUCCEEDED
    await second.stop()
    assert len(fleet.ledger.rows) == 10


async def test_an_owner_that_was_taken_for_dead_changes_nothing_when_it_goes_on(
    shared: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old owner says nothing for longer than its lease and finishes its work after the new one."""
    gates = {"old": asyncio.Event(), "new": asyncio.Event()}
    gates["new"].set()
    old_peers, new_peers = fleet.peers, dataclasses.replace(fleet.peers, generator=copy.copy(fleet.generator))
    old_peers.generator.gate, new_peers.generator.gate = gates["old"], gates["new"]
    old = RunManager(
        shared, book, old_peers, parallel_runs=1, default_concurrency=4, patience_seconds=5.0,
        lease_times=LeaseTimes(lease_seconds=0.2, renewal_seconds=LONGEST_WAIT_SECONDS, poll_seconds=0.05),
    )  # fmt: skip
    keep, is_awake = old._shards.keep, asyncio.Event()

    async def keep_when_awake(*arguments: Any, **options: Any) -> None:
        await is_awake.wait()
        await keep(*arguments, **options)

    monkeypatch.setattr(old._shards, "keep", keep_when_awake)
    await old.start()
    run = await old.create(REQUEST)
    job = await job_of(old, run.run_id)
    await until(lambda: len(fleet.generator.waiting) == 4)
    new = RunManager(
        shared, book, new_peers, parallel_runs=1, default_concurrency=4, patience_seconds=5.0, lease_times=TIMES
    )
    await new.start()
    ended = await end_of(new, run.run_id)
    assert ended.state is RunState.SUCCEEDED
    rows = dict(fleet.ledger.rows)

    is_awake.set()
    gates["old"].set()
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await asyncio.wait([job])
    assert fleet.ledger.rows == rows
    assert await shared.get(run.run_id) == ended
    assert await old.get(run.run_id) == ended
    await new.stop()
    await old.stop()
    assert await shared.get(run.run_id) == ended


async def test_a_list_of_runs_that_is_away_ends_no_run(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failures = store.save, 0

    async def failing_save(*arguments: Any, **options: Any) -> None:
        nonlocal failures
        failures += 1
        if failures <= 3:
            raise RunsUnavailableError("restarting", retry_after_seconds=0.01)
        await save(*arguments, **options)

    monkeypatch.setattr(store, "save", failing_save)
    runs = manager(store, book, fleet)
    await runs.start()
    run = await runs.create(REQUEST)
    assert (await end_of(runs, run.run_id)).state is RunState.SUCCEEDED
    await runs.stop()
    assert failures > 3


async def test_a_request_that_two_replicas_get_at_once_makes_one_run(
    shared: SharedStore, book: Book, fleet: Any
) -> None:
    one, other = manager(shared, book, fleet), manager(shared, book, fleet)
    request = RunRequest("demo", "models/tiny", request_id=str(uuid.uuid4()))
    made = await asyncio.gather(*(runs.create(request) for runs in (one, other) * 5))
    assert len({run.run_id for run in made}) == 1


async def job_of(runs: RunManager, run_id: str) -> asyncio.Task[None]:
    await until(lambda: run_id in runs._jobs)
    return runs._jobs[run_id]


async def test_a_replica_whose_own_lease_ended_takes_its_run_anew(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of runs takes no word from it for longer than a lease, then works again."""
    save, is_away = store.save, False

    async def save_unless_away(*arguments: Any, **options: Any) -> None:
        if is_away:
            raise RunsUnavailableError("restarting", retry_after_seconds=0.01)
        await save(*arguments, **options)

    monkeypatch.setattr(store, "save", save_unless_away)
    fleet.generator.gate = asyncio.Event()
    runs = RunManager(
        store, book, fleet.peers, parallel_runs=2, default_concurrency=4, patience_seconds=5.0,
        lease_times=LeaseTimes(lease_seconds=0.2, renewal_seconds=0.05, poll_seconds=0.05),
    )  # fmt: skip
    await runs.start()
    run = await runs.create(REQUEST)
    job = await job_of(runs, run.run_id)
    await until(lambda: len(fleet.generator.waiting) == 4)
    is_away = True
    await until(lambda: runs._jobs.get(run.run_id) not in (None, job))
    is_away = False
    assert job.cancelled()
    fleet.generator.gate.set()
    assert (await end_of(runs, run.run_id)).state is RunState.SUCCEEDED
    await runs.stop()
    assert len(fleet.ledger.rows) == 10
