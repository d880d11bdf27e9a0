"""Rankings are created once, can be cancelled, and go on to the end whatever dies in between."""

import asyncio
import dataclasses
import uuid
from typing import Any

import pytest

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.rankings.record import Standing, member_runs
from services.evaluation.rankings.store import RankingClaim
from services.evaluation.runs.record import Run, RunFailure, RunState
from services.runtime.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from tests.patience import until
from tests.unit.evaluation.rankings.desk import REQUEST, Choir, Desk, end_of


async def test_a_ranking_goes_on_where_a_killed_service_left_it(desk: Desk, choir: Choir) -> None:
    first = desk.manager()
    await first.start()
    ranking = await first.create(dataclasses.replace(REQUEST, concurrency=2))
    await until(lambda: len(desk.fleet.ledger.rows) >= 12)
    await first.stop()
    done = dict(desk.fleet.ledger.rows)
    asked = {model: len(texts) for model, texts in choir.by_model.items()}
    second = desk.manager()
    await second.start()
    ended = await end_of(second, ranking.ranking_id)
    await second.stop()
    assert ended.state is RunState.SUCCEEDED
    assert [each.standing for each in ended.contenders] == [Standing.OUT, Standing.TOP, Standing.OUT]
    assert done.items() <= desk.fleet.ledger.rows.items()
    # Nothing that the ledger had was asked again.
    for contender in ended.contenders:
        had = sum(key[0] == contender.run for key in done)
        now = len(choir.by_model[contender.model]) - asked[contender.model]
        assert now >= contender.evaluated_count - had
        assert now <= contender.evaluated_count - had + 2
    undisturbed = await desk.ended(REQUEST)
    assert [each.decided_after for each in undisturbed.contenders] == [each.decided_after for each in ended.contenders]


async def test_a_paused_owner_that_wakes_changes_nothing(desk: Desk) -> None:
    store = desk.stores[0]
    await desk.manager().create(REQUEST)
    slow = await store.claim("slow", lease_seconds=-1)
    fast = await store.claim("fast", lease_seconds=60)
    assert slow is not None
    assert fast is not None
    assert fast.epoch > slow.epoch
    with pytest.raises(LeaseLostError):
        await store.save(dataclasses.replace(slow.ranking, state=RunState.FAILED), slow.epoch)
    await store.save(fast.ranking, fast.epoch, lease_seconds=60)
    assert await store.claim("third", lease_seconds=60) is None


async def test_only_the_owner_says_how_the_runs_of_a_ranking_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (store, runs), manager = desk.stores, desk.manager()
    ranking = await manager.create(REQUEST)
    slow = await store.claim("slow", lease_seconds=-1)
    fast = await store.claim("fast", lease_seconds=60)
    assert slow is not None
    assert fast is not None
    contenders = tuple(dataclasses.replace(each, scored_count=1) for each in ranking.contenders)
    begun = dataclasses.replace(slow.ranking, contenders=contenders)
    failures: list[RunFailure | None] = [RunFailure(13, "MODEL_GONE", "no model"), None]

    async def next_failure(_claim: RankingClaim) -> RunFailure | None:
        return failures.pop(0)

    monkeypatch.setattr(manager, "_failure_of", next_failure)
    manager._live.note(ranking.ranking_id, begun)
    await manager._execute(slow)
    assert await runs.page(size=10) == []
    # As a replica that was taken over in the middle of it would leave them; the third is somebody else's.
    left = member_runs(dataclasses.replace(begun, state=RunState.FAILED))
    for run in (*left[:2], dataclasses.replace(left[2], create_time=1.0)):
        await runs.add(run)
    manager._live.note(ranking.ranking_id, begun)
    await manager._execute(fast)
    states = [found and found.state for found in [await runs.get(each.run_id) for each in contenders]]
    assert states == [RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.FAILED]
    assert (await manager.get(ranking.ranking_id)).state is RunState.SUCCEEDED


async def test_a_cancelled_ranking_ends_for_good_and_keeps_what_was_done(desk: Desk, choir: Choir) -> None:
    manager = desk.manager()
    await manager.start()
    choir.gate = asyncio.Event()
    ranking = await manager.create(dataclasses.replace(REQUEST, concurrency=3))
    await until(lambda: len(choir.waiting) >= 3)
    cancelled = await manager.cancel(ranking.ranking_id)
    assert cancelled.state is RunState.CANCELLED
    assert cancelled.end_time is not None
    assert (await end_of(manager, ranking.ranking_id)).state is RunState.CANCELLED
    assert (await manager.cancel(ranking.ranking_id)).state is RunState.CANCELLED
    await manager.stop()
    # Whoever still works on it elsewhere is refused by the ledger.
    with pytest.raises(LeaseLostError):
        await desk.fleet.ledger.fenced(1).append(ranking.contenders[0].run, ())


async def test_cancelling_again_brings_the_runs_that_the_first_time_could_not_store(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, runs = desk.manager(), desk.stores[1]
    await manager.start()
    ranking = await manager.create(dataclasses.replace(REQUEST, concurrency=2))
    await until(lambda: len(desk.fleet.ledger.rows) >= 12)
    with monkeypatch.context() as broken:

        async def away(_run: Run) -> None:
            raise RunsUnavailableError("away")

        broken.setattr(runs, "add", away)
        with pytest.raises(RunsUnavailableError):
            await manager.cancel(ranking.ranking_id)
    assert await runs.page(size=10) == []
    cancelled = await manager.cancel(ranking.ranking_id)
    await manager.stop()
    assert cancelled.state is RunState.CANCELLED
    found = {run.run_id: run for run in await runs.page(size=10)}
    assert set(found) == {each.run_id for each in cancelled.contenders if each.evaluated_count} != set()
    assert {run.state for run in found.values()} == {RunState.CANCELLED}
    for each in cancelled.contenders:
        if each.evaluated_count:
            assert found[each.run_id].progress[0].scored_count == each.scored_count


async def test_a_judge_that_is_away_for_a_moment_is_waited_for_and_a_refusal_ends_it(desk: Desk) -> None:
    manager = desk.manager()
    await manager.start()
    desk.judge.error = UnavailableError("restarting", reason="AWAY", retry_after_seconds=0.01)
    ranking = await manager.create(REQUEST)
    await until(lambda: len(desk.fleet.ledger.rows) >= 40)
    desk.judge.error = None
    assert (await end_of(manager, ranking.ranking_id)).state is RunState.SUCCEEDED
    desk.judge.error = FailedPreconditionError("no", reason="RUNS_NOT_COMPARABLE")
    failed = await end_of(manager, (await manager.create(REQUEST)).ranking_id)
    await manager.stop()
    assert failed.state is RunState.FAILED
    assert failed.failure is not None
    assert failed.failure.reason == "RUNS_NOT_COMPARABLE"


async def test_it_does_not_go_on_with_other_data_or_another_model(desk: Desk) -> None:
    first = desk.manager()
    await first.start()
    ranking = await first.create(dataclasses.replace(REQUEST, concurrency=1))
    await until(lambda: len(desk.fleet.ledger.rows) >= 3)
    await first.stop()
    desk.book.data_digest = "rows-2"
    second = desk.manager()
    await second.start()
    ended = await end_of(second, ranking.ranking_id)
    await second.stop()
    assert ended.failure is not None
    assert ended.failure.reason == "DATA_CHANGED"


async def test_a_repeated_request_is_the_same_ranking(desk: Desk) -> None:
    manager = desk.manager()
    request = dataclasses.replace(REQUEST, request_id=str(uuid.uuid4()))
    first = await manager.create(request)
    assert (await manager.create(request)).ranking_id == first.ranking_id
    with pytest.raises(AlreadyExistsError):
        await manager.create(dataclasses.replace(REQUEST, ranking_id=first.ranking_id))
    assert [each.name for each in await manager.page(size=10)] == [first.name]


async def test_a_ranking_does_not_take_the_name_of_a_run_that_is_there(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, item_limit=20))
    [*_, last] = ended.contenders
    run = await desk.stores[1].get(last.run_id)
    assert run is not None
    await desk.stores[1].add(dataclasses.replace(run, run_id="mine-3"))
    with pytest.raises(AlreadyExistsError, match="mine-3") as caught:
        await desk.manager().create(dataclasses.replace(REQUEST, ranking_id="mine"))
    assert caught.value.reason == "RUN_EXISTS"
    with pytest.raises(AlreadyExistsError) as caught:
        await desk.manager().create(dataclasses.replace(REQUEST, ranking_id=ended.ranking_id))
    assert caught.value.reason == "RANKING_EXISTS"
    assert [each.ranking_id for each in await desk.stores[0].page(size=10)] == [ended.ranking_id]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"suite": "demi"}, NotFoundError),
        ({"task": "shouts"}, NotFoundError),
        ({"task": ""}, InvalidArgumentError),
        ({"metric": "accuracy"}, NotFoundError),
        ({"models": ("models/good", "models/gone")}, NotFoundError),
    ],
)
async def test_what_cannot_be_ranked_is_refused_at_once(desk: Desk, changes: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        await desk.manager().create(dataclasses.replace(REQUEST, **changes))
