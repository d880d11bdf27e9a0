"""Runs are created once, worked on to their end, can be cancelled, and are watched."""

import asyncio
import uuid
from typing import Any

import pytest

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.runs import manager as manager_module
from services.evaluation.runs.record import RunRequest, RunState
from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from services.runtime.callers import current_caller
from services.runtime.calls import bind_deadline, bind_ids, current_scope
from services.runtime.deadlines import remaining_seconds
from services.runtime.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.evaluation.runs.managing import REQUEST, end_of, manager
from tests.unit.evaluation.runs.suite_books import Book


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


@pytest.mark.parametrize("stored_count", [1, 10])
async def test_a_run_asks_again_what_the_ledger_has_lost(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch, stored_count: int
) -> None:
    """A standby that lagged takes over after the first outcomes, or when the last one was acknowledged."""
    monkeypatch.setattr(manager_module, "RETRY_AFTER_SECONDS", 0.0)

    def lose() -> None:
        if len(fleet.ledger.rows) >= stored_count and len(fleet.ledger.incarnations) == 1:
            fleet.ledger.rows.clear()
            fleet.ledger.incarnations.append("second")

    fleet.ledger.after_append = lose
    runs = manager(store, book, fleet)
    await runs.start()
    ended = await end_of(runs, (await runs.create(REQUEST)).run_id)
    await runs.stop()
    assert (ended.state, ended.failure) == (RunState.SUCCEEDED, None)
    assert fleet.ledger.incarnations == ["first", "second"]
    assert (ended.progress[0].scored_count, len(fleet.ledger.rows)) == (10, 10)


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
