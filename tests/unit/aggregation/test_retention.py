"""What is taken out of the ledger goes, what anybody still needs stays, and what is gone says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc

from services.aggregation import retention, schema, writer
from services.aggregation.comparison.reading import LedgerAnswers
from services.aggregation.drawings.desk import DrawingDesk
from services.aggregation.drawings.records import DrawingSpec
from services.aggregation.errors import (
    InvalidLedgerRequestError,
    PruneInProgressError,
    RunDeletedError,
    RunInProgressError,
)
from services.aggregation.ledger import ResultFilter, SqlLedger, open_ledger
from services.aggregation.pruning_messages import policy_from_proto
from services.aggregation.records import AppendCounts, Result, RunLease, Scored
from services.aggregation.regular_pruning import regular_pruning
from services.aggregation.retention import Pruned, PrunePolicy
from services.aggregation.service import hosted
from services.aggregation.settings import AggregationSettings
from services.runtime.database import sqlite_url
from services.runtime.errors import NotFoundError
from services.runtime.testing import serve_in_process

ResultFactory = Callable[..., Result]
Prune = aggregation_pb2.PruneLedgerRequest
LONG = "What is 17 + 25? " * 40
OLD = PrunePolicy(keep_text_days=30, keep_runs_days=90)


class Clock:
    """A clock of hours that a test sets."""

    def __init__(self) -> None:
        self.hour = 500_000

    def __call__(self) -> int:
        return self.hour

    def pass_days(self, days: int) -> None:
        self.hour += 24 * days


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (retention, writer):
        monkeypatch.setattr(module, "current_hour", found)
    monkeypatch.setattr(schema.RUNS.c.append_hour.default, "arg", lambda _context: found.hour)
    return found


async def read(ledger: SqlLedger, run: str) -> list[Result]:
    async with aclosing(ledger.results(run, ResultFilter(), 10**6)) as pieces:
        return [each async for piece in pieces for each in piece]


async def test_a_named_run_goes_with_the_texts_that_it_alone_has(
    ledger: SqlLedger, result: ResultFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_RESULTS_A_TRANSACTION", 2)
    monkeypatch.setattr(retention, "_TEXTS_A_TRANSACTION", 2)
    for run in ("runs/a", "runs/b"):
        await ledger.append([result(str(n), run=run, prompt=f"{LONG}{n}", output=f"{LONG}{run}") for n in range(5)])
    wanted = PrunePolicy(("runs/a",), runs_have_ended=True)
    expected = await ledger.prune(wanted, dry_run=True)
    assert (expected.runs, expected.result_count, expected.text_count) == (("runs/a",), 5, 1)
    assert len(await read(ledger, "runs/a")) == 5
    assert await ledger.prune(wanted) == expected
    assert await ledger.prune(PrunePolicy()) == Pruned()
    assert [each.prompt for each in await read(ledger, "runs/b")] == [f"{LONG}{n}" for n in range(5)]
    with pytest.raises(RunDeletedError):
        await read(ledger, "runs/a")
    with pytest.raises(RunDeletedError):
        await ledger.prune(wanted)
    assert await ledger.run_names() == ["runs/b"]


async def test_a_deleted_run_takes_no_results_and_leaves_the_others_of_the_transaction_alone(
    tmp_path: Path, result: ResultFactory
) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as one, open_ledger(url) as other:
        for each in (one, other):
            await each.append([result("a", run="runs/a"), result("a", run="runs/b")])
        await one.prune(PrunePolicy(("runs/a",), runs_have_ended=True))
        # The other one remembers the run from before.
        late = other.append([result("late", run="runs/a")])
        fine = other.append([result("late", run="runs/b")])
        refused, counts = await asyncio.gather(late, fine, return_exceptions=True)
        assert isinstance(refused, RunDeletedError)
        assert counts == AppendCounts(1, 0)


async def test_a_text_that_was_removed_is_written_again_by_those_who_remember_it(
    tmp_path: Path, result: ResultFactory
) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as one, open_ledger(url) as other:
        await one.append([result("a", run="runs/a", prompt=LONG)])
        await other.append([result("b", run="runs/a", prompt=LONG)])
        assert (await one.prune(PrunePolicy(("runs/a",), runs_have_ended=True))).text_count == 1
        await other.append([result("a", run="runs/b", prompt=LONG)])
        await one.append([result("b", run="runs/b", prompt=LONG)])
        assert [each.prompt for each in await read(one, "runs/b")] == [LONG, LONG]


async def test_old_texts_go_and_say_so_and_scores_and_shared_and_short_texts_stay(
    ledger: SqlLedger, result: ResultFactory, clock: Clock
) -> None:
    old = result("a", run="runs/a", prompt=LONG, output=LONG + "old", outcome=Scored({"acc": 0.5}, LONG + "answer"))
    await ledger.append([old, result("b", run="runs/a", prompt="short", output="")])
    clock.pass_days(31)
    await ledger.append([result("a", run="runs/b", prompt=LONG)])
    found = await ledger.prune(OLD)
    assert (found.runs, found.text_count) == ((), 2)
    assert await ledger.prune(OLD) == Pruned()
    kept, short = await read(ledger, "runs/a")
    assert kept.pruned_texts == ("output", "extracted_answer")
    assert (kept.prompt, kept.output, kept.outcome) == (LONG, "", Scored({"acc": 0.5}, None))
    assert (short.prompt, short.output, short.pruned_texts) == ("short", "", ())
    # What was removed can be written again: it is the same text.
    await ledger.append([result("b", run="runs/b", output=LONG + "old")])
    assert [each.output for each in await read(ledger, "runs/a")] == [LONG + "old", ""]


async def test_items_are_known_for_the_same_after_their_prompts_are_gone(
    ledger: SqlLedger, result: ResultFactory, clock: Clock
) -> None:
    for run in ("runs/a", "runs/b"):
        await ledger.append([result("a", run=run, prompt=LONG), result("b", run=run, prompt=LONG + run)])
    clock.pass_days(31)
    await ledger.prune(OLD)
    answers = LedgerAnswers(ledger)
    keys = []
    for run in ("runs/a", "runs/b"):
        async with aclosing(answers.answers(run, None)) as pieces:
            keys.append([each.prompt.content_key async for piece in pieces for each in piece])
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]


async def test_old_runs_go_and_one_that_is_written_to_stays(
    ledger: SqlLedger, result: ResultFactory, clock: Clock
) -> None:
    for run in ("runs/a", "runs/b"):
        await ledger.append([result("a", run=run)])
    clock.pass_days(60)
    await ledger.append([result("b", run="runs/b")])
    clock.pass_days(31)
    assert await ledger.prune(OLD) == Pruned(("runs/a",), 1)
    assert len(await read(ledger, "runs/b")) == 2


async def test_a_run_that_a_worker_takes_over_is_in_progress(
    ledger: SqlLedger, result: ResultFactory, clock: Clock
) -> None:
    await ledger.append([result("a", run="runs/a")], RunLease("runs/a", 1))
    clock.pass_days(91)
    await ledger.append([], RunLease("runs/a", 2))
    assert await ledger.prune(OLD) == Pruned()
    assert len(await read(ledger, "runs/a")) == 1


async def test_what_was_decided_of_a_deleted_run_is_gone_with_it_and_its_order_stays(
    ledger: SqlLedger, result: ResultFactory
) -> None:
    spec = DrawingSpec("runs/a", "t", "acc", 7, "models/m", "m", "d")
    desk = DrawingDesk(ledger.drawings)
    drawing = await desk.create(spec, ["a", "b", "c"])
    [draw] = (await desk.draw("runs/a", "t", 0, 1)).draws
    await ledger.append([result(draw.item_id, run="runs/a", draw_index=0)])
    await ledger.prune(PrunePolicy(("runs/a",), runs_have_ended=True))
    for each in (desk, DrawingDesk(ledger.drawings)):
        for task in (None, "t"):
            with pytest.raises(RunDeletedError):
                await each.decisions("runs/a", task)
    with pytest.raises(RunDeletedError):
        await DrawingDesk(ledger.drawings).draw("runs/a", "t", 0, 1)
    [earlier] = await ledger.drawings.earlier(replace(spec, run="runs/b"))
    assert earlier.order_seed == drawing.order_seed


async def test_a_run_that_gets_a_result_between_choosing_and_deleting_stays(
    ledger: SqlLedger, result: ResultFactory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.append([result("a", run="runs/a")])
    clock.pass_days(91)
    mark = retention.Pruner._mark

    async def after_a_result(pruner: retention.Pruner, doomed: Any) -> list[str]:
        await ledger.append([result("b", run="runs/a")])
        return await mark(pruner, doomed)

    monkeypatch.setattr(retention.Pruner, "_mark", after_a_result)
    assert await ledger.prune(OLD) == Pruned()
    assert len(await read(ledger, "runs/a")) == 2


async def test_a_run_that_is_deleted_while_it_is_read_is_not_taken_for_an_empty_one(
    ledger: SqlLedger, result: ResultFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.append([result("a", run="runs/a")])
    look = SqlLedger._run_id

    async def deleted_after_the_look(reading: SqlLedger, run: str) -> int:
        found = await look(reading, run)
        monkeypatch.setattr(SqlLedger, "_run_id", look)
        await ledger.prune(PrunePolicy(("runs/a",), runs_have_ended=True))
        return found

    monkeypatch.setattr(SqlLedger, "_run_id", deleted_after_the_look)
    with pytest.raises(RunDeletedError):
        await read(ledger, "runs/a")


async def test_a_run_with_fresh_results_is_deleted_only_if_it_is_said_to_have_ended(
    ledger: SqlLedger, result: ResultFactory, clock: Clock
) -> None:
    await ledger.append([result("a", run="runs/a")])
    # Two full hours of the clock may be a minute more than one hour.
    for _ in range(3):
        with pytest.raises(RunInProgressError):
            await ledger.prune(PrunePolicy(("runs/a",)))
        clock.hour += 1
    assert (await ledger.prune(PrunePolicy(("runs/a",)))).runs == ("runs/a",)


async def test_what_an_interrupted_call_left_the_next_one_deletes(
    ledger: SqlLedger, result: ResultFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.append([result(str(n), run="runs/a", prompt=LONG) for n in range(5)])
    with monkeypatch.context() as broken:

        async def fail(_pruner: retention.Pruner, _run_id: int) -> int:
            raise asyncio.CancelledError

        broken.setattr(retention.Pruner, "_delete_some", fail)
        with pytest.raises(asyncio.CancelledError):
            await ledger.prune(PrunePolicy(("runs/a",), runs_have_ended=True))
    with pytest.raises(RunDeletedError):
        await read(ledger, "runs/a")
    left = await ledger.prune(PrunePolicy())
    assert (left.runs, left.result_count, left.text_count) == ((), 5, 1)


async def test_one_prunes_at_a_time(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    doomed = retention.Pruner._doomed

    async def waiting(pruner: retention.Pruner, policy: PrunePolicy) -> Any:
        entered.set()
        await go_on.wait()
        return await doomed(pruner, policy)

    monkeypatch.setattr(retention.Pruner, "_doomed", waiting)
    first = asyncio.create_task(ledger.prune(PrunePolicy()))
    await entered.wait()
    with pytest.raises(PruneInProgressError):
        await ledger.prune(PrunePolicy())
    go_on.set()
    assert await first == Pruned()
    assert await ledger.prune(PrunePolicy()) == Pruned()


async def test_unknown_runs_suggest_the_nearest(ledger: SqlLedger, result: ResultFactory) -> None:
    await ledger.append([result("a", run="runs/step-1200")])
    with pytest.raises(NotFoundError, match="step-1200"):
        await ledger.prune(PrunePolicy(("runs/step-1300",)))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Prune(keep_runs_days=0), "keep_runs_days"),
        (Prune(keep_text_days=-3), "keep_text_days"),
        (Prune(runs=["runs/a", "a"]), "runs[1]"),
        (Prune(runs=["runs/a", "runs/a"]), "runs[1]"),
        (Prune(runs=[f"runs/{n}" for n in range(1001)]), "runs"),
    ],
)
def test_wrong_requests_are_refused(request_: aggregation_pb2.PruneLedgerRequest, field: str) -> None:
    with pytest.raises(InvalidLedgerRequestError) as caught:
        policy_from_proto(request_)
    assert [each.field for each in caught.value.field_violations] == [field]


@pytest.fixture
async def stub(ledger: SqlLedger) -> AsyncIterator["aggregation_pb2_grpc.AggregationServiceAsyncStub"]:
    async with serve_in_process(hosted(ledger, max_message_bytes=16 * 1024 * 1024)) as channel:
        yield aggregation_pb2_grpc.AggregationServiceStub(channel)


async def test_over_grpc_a_pruned_text_reads_as_gone(
    stub: "aggregation_pb2_grpc.AggregationServiceAsyncStub", ledger: SqlLedger, result: ResultFactory, clock: Clock
) -> None:
    await ledger.append([result("a", run="runs/a", prompt=LONG, output="")])
    clock.pass_days(40)
    answer = await stub.PruneLedger(Prune(keep_text_days=30))
    assert (answer.text_count, answer.text_bytes > 0) == (1, True)
    [found] = (await stub.ListResults(aggregation_pb2.ListResultsRequest(run="runs/a"))).results
    assert (found.prompt, list(found.pruned_texts)) == ("", [aggregation_pb2.RESULT_TEXT_PROMPT])


async def test_settings_prune_regularly_and_by_default_nothing(
    ledger: SqlLedger, result: ResultFactory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AggregationSettings().prune_policy is None
    monkeypatch.setenv("EVALFLEET_LEDGER_KEEP_RUNS_DAYS", "90")
    monkeypatch.setenv("EVALFLEET_LEDGER_KEEP_TEXT_DAYS", "30")
    assert AggregationSettings().prune_policy == OLD
    await ledger.append([result("a", run="runs/a")])
    clock.pass_days(91)
    pruned, prune = asyncio.Event(), ledger.prune

    async def watched(policy: PrunePolicy, *, dry_run: bool = False) -> Pruned:
        found = await prune(policy, dry_run=dry_run)
        pruned.set()
        return found

    monkeypatch.setattr(ledger, "prune", watched)
    async with regular_pruning(ledger, OLD, first_after_seconds=0, every_seconds=3600):
        await asyncio.wait_for(pruned.wait(), 30)
    assert await ledger.run_names() == []
