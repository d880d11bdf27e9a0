"""A run goes on at another process, after a restart or at a replica, and is never worked on by two."""

import asyncio
import copy
import dataclasses
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.record import RunRequest, RunState
from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.managing import REQUEST, TIMES, begun, end_of, job_of, manager
from tests.unit.evaluation.runs.stored_runs import SharedStore, opened
from tests.unit.evaluation.runs.suite_books import Book


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


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[SharedStore]:
    async with opened(tmp_path / "shared.sqlite") as engine:
        yield SharedStore(engine)


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


async def test_a_request_that_two_replicas_get_at_once_makes_one_run(
    shared: SharedStore, book: Book, fleet: Any
) -> None:
    one, other = manager(shared, book, fleet), manager(shared, book, fleet)
    request = RunRequest("demo", "models/tiny", request_id=str(uuid.uuid4()))
    made = await asyncio.gather(*(runs.create(request) for runs in (one, other) * 5))
    assert len({run.run_id for run in made}) == 1


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
