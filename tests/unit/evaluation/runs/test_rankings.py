"""Rankings: the same items for all, none for who is out, within the budget, to the end whatever dies in between."""

import asyncio
import copy
import dataclasses
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.items import Prompt
from services.evaluation.rankings.documents import document_of, ranking_of
from services.evaluation.rankings.judge import Judged, Judgement
from services.evaluation.rankings.manager import RankingManager
from services.evaluation.rankings.messages import ranking_message
from services.evaluation.rankings.record import Ranking, RankingRequest, Span, Standing, member_runs
from services.evaluation.rankings.store import RankingClaim, RankingStore
from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.budget import Budget
from services.evaluation.runs.caller_budgets import CallerBudgets, CallerBudgetsSpec
from services.evaluation.runs.executor import TaskItems
from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.peers import GeneratedText, GenerationOptions
from services.evaluation.runs.record import Run, RunFailure, RunState, StopReason
from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from services.runtime.calls import bind_ids
from services.runtime.database import open_database, sqlite_url
from services.runtime.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    not_found,
)
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.conftest import FakeGenerator, Fleet

MIGRATIONS = Path(__file__).parents[4] / "services" / "evaluation" / "migrations"
TIMES = LeaseTimes(lease_seconds=1.0, renewal_seconds=0.1, poll_seconds=0.05)
MODELS = ("models/bad", "models/good", "models/fair")
REQUEST = RankingRequest(suite="demo", task="shout", models=MODELS, top=1)
ITEMS = 240


class Choir(FakeGenerator):
    """Three models that shout back: one always, one nine times of ten, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.by_model: dict[str, list[str]] = {model: [] for model in MODELS}

    async def model_digest(self, model: str) -> str:
        if model not in MODELS:
            raise not_found("model", model, MODELS)
        return f"digest of {model}"

    async def generate(self, model: str, prompt: Prompt, options: GenerationOptions) -> Sequence[GeneratedText]:
        given = await super().generate(model, prompt, options)
        text = given[0].text
        self.by_model[model].append(text)
        number = int(text.split()[1])
        is_right = model == "models/good" or (model == "models/fair" and number % 10 > 0)
        return [dataclasses.replace(each, text=text if is_right else "what?") for each in given]


class FakeJudge:
    """Drops whoever has ten right answers fewer than the best on the common prefix: a rule instead of statistics.

    With a tolerance it calls whoever is in after 32 items tied.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._ledger = fleet.ledger
        self.asked: list[int] = []
        self.error: Exception | None = None

    async def judge(self, ranking: Ranking) -> Judgement:
        if self.error is not None:
            raise self.error
        scores = [self._scores(each.run) for each in ranking.contenders]
        is_in, after = [True] * len(scores), [0] * len(scores)
        count = 0
        while sum(is_in) > 1 and all(len(each) > count for each, wanted in zip(scores, is_in, strict=True) if wanted):
            count += 1
            totals = [sum(each[:count]) for each in scores]
            best = max(total for total, wanted in zip(totals, is_in, strict=True) if wanted)
            for index, total in enumerate(totals):
                if is_in[index] and best - total >= 10:
                    is_in[index], after[index] = False, count
            if ranking.tolerance and count == 32:
                break
        is_decided = sum(is_in) == 1 or bool(ranking.tolerance and count == 32)
        self.asked.append(count)
        known = Standing.TIED if is_decided else Standing.CONTENDING
        standings = [known if wanted else Standing.OUT for wanted in is_in]
        if is_decided:
            standings[is_in.index(True)] = Standing.TOP
        runs = [
            Judged(
                standing,
                count if wanted and is_decided else out or None,
                sum(each) / len(each) if each else None,
                Span(0.0, 1.0, 0.98, "fake"),
                None,
                len(each),
            )
            for each, standing, wanted, out in zip(scores, standings, is_in, after, strict=True)
        ]
        return Judgement(runs, count, is_decided)

    def _scores(self, run: str) -> list[float]:
        """The scores of the completed prefix."""
        rows = {row.draw_index: row for (its_run, *_), row in self._ledger.rows.items() if its_run == run}
        found: list[float] = []
        while len(found) in rows:
            found.append((rows[len(found)].metrics or {}).get("exact_match", 0.0))
        return found


class DataRows:
    """Items in the order of the data."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def item(self, position: int) -> Any:
        return self._items[position]

    def item_ids(self) -> Sequence[str]:
        return [each.item_id for each in self._items]


class Book:
    """A suite book with one suite whose items are given."""

    def __init__(self, suite: Suite, items: Sequence[Any]) -> None:
        self.suite = suite
        self.items = items
        self.data_digest = "rows-1"

    async def resolve(self, suite: str, tasks: Sequence[str] = ()) -> Suite:
        if suite != self.suite.name:
            raise not_found("suite", suite, [self.suite.name])
        found = tuple(each for each in self.suite.tasks if not tasks or each.name in tasks)
        if not found:
            raise not_found("task", tasks[0], [each.name for each in self.suite.tasks])
        return dataclasses.replace(self.suite, tasks=found)

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        items = self.items[:limit]
        return [TaskItems(suite.tasks[0], items, self.data_digest, DataRows(items))]


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[RankingStore, RunStore]]:
    engine = await open_database(sqlite_url(tmp_path / "runs.sqlite"), migrations=MIGRATIONS, durable=False)
    yield RankingStore(engine), RunStore(engine)
    await engine.dispose()


@pytest.fixture
def choir(fleet: Fleet) -> Choir:
    fleet.generator = Choir()
    fleet.ledger.drawings.batch = 16
    return fleet.generator


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    suite = Suite("demo", "a suite", (make_task(), make_task("other")))
    return Book(suite, [make_item(f"item {index}") for index in range(ITEMS)])


class Desk:
    """Makes managers of one list of rankings: each is a service that was started anew."""

    def __init__(self, stores: tuple[RankingStore, RunStore], book: Book, fleet: Fleet) -> None:
        self.stores = stores
        self.fleet = fleet
        self.book = book
        self.judge = FakeJudge(fleet)
        self.allowances: Allowances | None = None

    def manager(self) -> RankingManager:
        return RankingManager(
            *self.stores,
            self.book,
            self.fleet.peers,
            self.judge,
            parallel_rankings=2,
            default_concurrency=6,
            patience_seconds=5.0,
            lease_times=TIMES,
            allowances=self.allowances,
        )

    async def ended(self, request: RankingRequest) -> Ranking:
        manager = self.manager()
        await manager.start()
        ranking = await end_of(manager, (await manager.create(request)).ranking_id)
        await manager.stop()
        return ranking


@pytest.fixture
def desk(stores: tuple[RankingStore, RunStore], book: Book, fleet: Fleet, choir: Choir) -> Desk:
    return Desk(stores, book, fleet)


async def end_of(manager: RankingManager, ranking_id: str) -> Ranking:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return [each async for each in manager.watch(ranking_id)][-1]


async def test_losers_get_no_more_items_and_the_best_is_known_early(desk: Desk, choir: Choir) -> None:
    ended = await desk.ended(REQUEST)
    assert (ended.state, ended.stop_reason, ended.is_decided) == (RunState.SUCCEEDED, StopReason.DECIDED, True)
    assert [each.standing for each in ended.contenders] == [Standing.OUT, Standing.TOP, Standing.OUT]
    bad, good, fair = ended.contenders
    assert bad.evaluated_count < fair.evaluated_count <= good.evaluated_count < ITEMS
    assert (ended.item_count, ended.data_digest) == (ITEMS, "rows-1")
    assert ended.start_time is not None
    assert ended.end_time is not None
    for contender in ended.contenders:
        assert len(choir.by_model[contender.model]) >= contender.evaluated_count


async def test_all_models_meet_the_same_items_in_the_same_order_and_none_runs_ahead(desk: Desk) -> None:
    ended = await desk.ended(REQUEST)
    drawings = desk.fleet.ledger.drawings.drawings
    assert len({drawing.order for drawing in drawings.values()}) == 1
    requests = [drawing.request for drawing in drawings.values()]
    assert [each.uses_history for each in requests] == [False] * 3
    assert [each.questions.alpha for each in requests] == pytest.approx([0.05 / 3] * 3)
    counts = [each.evaluated_count for each in ended.contenders]
    # Who was out stays where it was, give or take what was in flight; the other two go on side by side.
    assert abs(counts[1] - counts[2]) <= 6 + 8


async def test_nobody_is_asked_more_than_can_be_judged_soon(desk: Desk, choir: Choir) -> None:
    # The models answer at once; the ledger takes its time.
    desk.fleet.ledger.drawings.batch = ITEMS  # as in an order without history: no draw waits for results
    desk.fleet.ledger.errors += [UnavailableError("busy", reason="BUSY", retry_after_seconds=0.01)] * 10_000
    manager = desk.manager()
    await manager.start()
    ranking = await manager.create(dataclasses.replace(REQUEST, concurrency=200))
    await until(lambda: len(choir.asked) >= 96)
    for _ in range(200):
        await asyncio.sleep(0)
    assert {model: len(texts) for model, texts in choir.by_model.items()} == dict.fromkeys(MODELS, 32)
    desk.fleet.ledger.errors.clear()
    assert (await end_of(manager, ranking.ranking_id)).is_decided
    await manager.stop()


async def test_the_runs_are_in_the_list_of_runs_once_it_has_ended(desk: Desk) -> None:
    ended = await desk.ended(REQUEST)
    runs = [await desk.stores[1].get(each.run_id) for each in ended.contenders]
    assert [run and run.state for run in runs] == [RunState.SUCCEEDED] * 3
    for run, contender in zip(runs, ended.contenders, strict=True):
        assert run is not None
        assert (run.model, run.stop_reason) == (contender.model, StopReason.DECIDED)
        assert run.progress[0].scored_count == contender.scored_count
        assert run.decisions[0].saved_count == ITEMS - contender.evaluated_count
        assert run.goal.draws is False
    assert await desk.stores[1].unfinished() == []


async def test_items_with_several_samples_count_once(desk: Desk, make_task: Any) -> None:
    task = make_task(generation={"sample_count": 3, "temperature": 1.0})
    desk.book.suite = Suite("demo", "a suite", (task,))
    ended = await desk.ended(REQUEST)
    for contender in ended.contenders:
        samples = Counter(item for its_run, _, item, _ in desk.fleet.ledger.rows if its_run == contender.run)
        # Who is put down may be in the middle of an item.
        assert contender.evaluated_count == sum(count == 3 for count in samples.values()) > 0
        run = await desk.stores[1].get(contender.run_id)
        assert run is not None
        assert (run.progress[0].item_count, run.progress[0].scored_count) == (3 * ITEMS, samples.total())
        assert run.decisions[0].saved_count == ITEMS - contender.evaluated_count


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
    manager._live[ranking.ranking_id] = begun
    await manager._execute(slow)
    assert await runs.page(size=10) == []
    # As a replica that was taken over in the middle of it would leave them; the third is somebody else's.
    left = member_runs(dataclasses.replace(begun, state=RunState.FAILED))
    for run in (*left[:2], dataclasses.replace(left[2], create_time=1.0)):
        await runs.add(run)
    manager._live[ranking.ranking_id] = begun
    await manager._execute(fast)
    states = [found and found.state for found in [await runs.get(each.run_id) for each in contenders]]
    assert states == [RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.FAILED]
    assert (await manager.get(ranking.ranking_id)).state is RunState.SUCCEEDED


async def test_a_budget_ends_it_with_what_it_has_found(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, budget=Budget(items=15)))
    assert (ended.state, ended.stop_reason) == (RunState.SUCCEEDED, StopReason.BUDGET_EXHAUSTED)
    assert not ended.is_decided
    assert len(desk.fleet.ledger.rows) == 15
    assert ended.spent.items == 15
    assert {each.standing for each in ended.contenders} == {Standing.CONTENDING}


async def test_a_budget_counts_what_an_earlier_process_has_spent(desk: Desk) -> None:
    first = desk.manager()
    await first.start()
    ranking = await first.create(dataclasses.replace(REQUEST, concurrency=1, budget=Budget(items=30)))
    await until(lambda: len(desk.fleet.ledger.rows) >= 10)
    await first.stop()
    second = desk.manager()
    await second.start()
    ended = await end_of(second, ranking.ranking_id)
    await second.stop()
    assert len(desk.fleet.ledger.rows) == 30
    assert ended.spent.items == 30


async def test_a_callers_day_counts_rankings_too(desk: Desk, tmp_path: Path) -> None:
    engine = await open_database(sqlite_url(tmp_path / "accounts.sqlite"), migrations=MIGRATIONS, durable=False)
    spec = CallerBudgetsSpec.model_validate({"callers": {"team/a": {"items": 20}}})
    desk.allowances = Allowances(CallerBudgets(spec), AccountStore(engine, "me"))
    await desk.allowances.start()
    manager = desk.manager()
    await manager.start()
    with bind_ids(caller="team/a"):
        ended = await end_of(manager, (await manager.create(REQUEST)).ranking_id)
        with pytest.raises(ResourceExhaustedError):
            await manager.create(REQUEST)
    assert (await end_of(manager, (await manager.create(REQUEST)).ranking_id)).is_decided
    await manager.stop()
    await desk.allowances.stop()
    await engine.dispose()
    assert (ended.state, ended.stop_reason) == (RunState.SUCCEEDED, StopReason.CALLER_BUDGET_EXHAUSTED)
    assert sum(each.evaluated_count for each in ended.contenders) == 20


async def test_models_that_are_alike_are_asked_everything(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, models=("models/good", "models/fair"), item_limit=20))
    assert (ended.stop_reason, ended.is_decided, ended.item_count) == (StopReason.COMPLETE, False, 20)
    assert [each.evaluated_count for each in ended.contenders] == [20, 20]
    assert desk.judge.asked[-1] == 20


async def test_models_that_are_alike_are_tied_with_a_tolerance(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, models=("models/good", "models/fair"), tolerance=0.05))
    assert (ended.stop_reason, ended.is_decided, ended.tolerance) == (StopReason.DECIDED, True, 0.05)
    assert [each.standing for each in ended.contenders] == [Standing.TOP, Standing.TIED]
    assert all(each.evaluated_count < ITEMS for each in ended.contenders)
    assert ranking_of(document_of(ended)) == ended
    assert ranking_message(ended).tolerance == 0.05
    run = await desk.stores[1].get(ended.contenders[1].run_id)
    assert run is not None
    assert run.stop_reason is StopReason.DECIDED


def test_a_ranking_without_a_tolerance_is_written_as_earlier_versions_read_it() -> None:
    ranking = Ranking("rank-1", "demo", "d", "shout", "exact_match", False, 1, None, 0.95, 1, 4, 0.0, contenders=())
    values = json.loads(document_of(ranking))
    assert values.keys() == {each.name for each in dataclasses.fields(Ranking)} - {"tolerance"}
    assert ranking_of(json.dumps(values)) == ranking
    tied = dataclasses.replace(ranking, tolerance=0.1)
    assert ranking_of(document_of(tied)) == tied


def test_a_ranking_of_a_newer_version_is_refused_by_name() -> None:
    ranking = Ranking("rank-1", "demo", "d", "shout", "exact_match", False, 1, None, 0.95, 1, 4, 0.0, contenders=())
    document = json.dumps({**json.loads(document_of(ranking)), "handicap": 0.1})
    with pytest.raises(FailedPreconditionError, match=r"rank-1.*handicap"):
        ranking_of(document)


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


async def test_a_ranking_is_read_as_it_was_written(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, budget=Budget(items=50), seed=3))
    assert ranking_of(document_of(ended)) == ended
    assert await desk.manager().get(ended.ranking_id) == ended
    with pytest.raises(NotFoundError):
        await desk.manager().get("rank-nobody")


def test_a_model_that_was_asked_nothing_has_no_run(make_task: Any) -> None:
    ranking = Ranking("rank-1", "demo", "d", "shout", "exact_match", False, 1, None, 0.95, 1, 4, 0.0, contenders=())
    assert member_runs(copy.copy(ranking)) == ()
