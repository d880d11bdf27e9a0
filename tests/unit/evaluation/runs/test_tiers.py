"""Which tier a run begins with, and which run follows it."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from services.evaluation.judging_specification import JudgeChoice, ScorerUse
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.decisions import Answer, TaskDecision
from services.evaluation.runs.executor import RunExecutor
from services.evaluation.runs.gates import Depth, Goal, GoalWish, parsed_gate
from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.making import RunMaker
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.model_changes import ModelChange, ModelContent, change_between
from services.evaluation.runs.record import Run, RunRequest, RunState, StopReason
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.tiers import goal_of, suite_for
from services.evaluation.specification import RequestKind
from services.evaluation.suite_specification import BudgetSpec, TierSpec
from services.evaluation.tasks import Suite
from services.runtime.errors import FailedPreconditionError, UnavailableError
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.suite_books import Book


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    tiers = {"smoke": TierSpec(gates=("shout >= 0.5",)), "standard": TierSpec(budget=BudgetSpec(items=30))}
    suite = Suite("demo", "a suite", (make_task(),), tiers=tiers)
    items = [make_item(f"shout {index}") for index in range(40)]
    # Nine of ten are answered rightly.
    wrong = [dataclasses.replace(each, targets=("something else",)) for each in items[::10]]
    return Book(suite, [*items, *wrong][4:], can_draw=True)


def manager(store: RunStore, book: Book, fleet: Any) -> RunManager:
    return RunManager(store, book, fleet.peers, parallel_runs=2, default_concurrency=4, patience_seconds=5.0)


async def end_of(runs: RunManager, run_id: str) -> Run:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return [run async for run in runs.watch(run_id)][-1]


async def climbed(runs: RunManager, request: RunRequest) -> list[Run]:
    """The ended runs of all tiers of a request."""
    ended = [await end_of(runs, (await runs.create(request)).run_id)]
    while (escalation := ended[-1].escalation) is not None and escalation.next_run:
        ended.append(await end_of(runs, escalation.next_run.removeprefix("runs/")))
    return ended


def escalating(tier: str, **changes: Any) -> RunRequest:
    return RunRequest("demo", "models/tiny", run_id="r", wish=GoalWish(tier=tier, escalates=True, **changes))


NOW = ModelContent("digest", "base", "lineage")


@pytest.mark.parametrize(
    ("earlier", "change"),
    [
        (NOW, ModelChange.UNCHANGED),
        (ModelContent("other", "base", "lineage"), ModelChange.ADAPTER),
        (ModelContent("other", "other", "lineage"), ModelChange.MINOR),
        (ModelContent("other", "other", "other"), ModelChange.MAJOR),
        (ModelContent("other"), ModelChange.MAJOR),
    ],
)
def test_digests_tell_what_is_new(earlier: ModelContent, change: ModelChange) -> None:
    assert change_between(NOW, earlier) is change


def test_what_nobody_knows_is_never_the_same() -> None:
    assert change_between(ModelContent("one"), ModelContent("two")) is ModelChange.MAJOR


async def test_a_run_escalates_while_no_gate_fails(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    smoke, standard, deep = await climbed(runs, escalating("smoke"))
    await runs.stop()
    assert [run.goal.tier for run in (smoke, standard, deep)] == ["smoke", "standard", "deep"]
    assert [run.run_id for run in (smoke, standard, deep)] == ["r", "r-standard", "r-deep"]
    assert standard.escalation is not None
    assert (standard.escalation.earlier_run, standard.escalation.next_run) == ("runs/r", "runs/r-deep")
    assert smoke.decisions[0].questions[0].answer is Answer.PASSED
    # The tier's own budget holds for it alone.
    assert (standard.goal.budget, deep.goal.budget) == (Budget(items=30), Budget())
    assert deep.progress[0].scored_count == 40
    assert smoke.seed == standard.seed == deep.seed


async def test_the_first_tier_that_fails_is_the_last(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    (smoke,) = await climbed(runs, escalating("smoke", gates=(parsed_gate("shout>=0.99"),)))
    await runs.stop()
    assert smoke.stop_reason is StopReason.GATE_FAILED
    assert smoke.state is RunState.SUCCEEDED
    assert len(await store.page(size=5)) == 1


async def test_all_tiers_share_the_callers_budget(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    ended = await climbed(runs, escalating("smoke", budget=Budget(items=35)))
    await runs.stop()
    assert len(ended) > 1
    assert sum(run.spent.items for run in ended) == 35
    # Items that the tier before has asked are no further ones; what was cancelled has no outcome.
    different = {key[2] for key in fleet.ledger.rows}
    assert 35 - 4 <= len(different) <= 35
    assert len(fleet.ledger.rows) > len(different)
    assert ended[-1].stop_reason is StopReason.BUDGET_EXHAUSTED


async def test_who_takes_a_run_over_charges_no_item_that_the_tier_before_has_paid_for(
    store: RunStore, book: Book, fleet: Any
) -> None:
    runs = manager(store, book, fleet)
    await runs.start()
    smoke, standard, *_ = await climbed(runs, escalating("smoke", budget=Budget(items=35)))
    await runs.stop()
    repeated = {key[2] for key in fleet.ledger.rows if key[0] == smoke.name}
    taken = dataclasses.replace(standard, state=RunState.RUNNING, decisions=(), stop_reason=None)
    job = RunExecutor(taken, fleet.peers, on_change=lambda _: None, patience_seconds=5.0)
    job.begin(await book.draw(book.suite, seed=taken.seed, limit=None))
    await job.execute()
    rows = {key[2] for key in fleet.ledger.rows if key[0] == standard.name}
    # What was cancelled, four items at most, has no outcome and is spent.
    assert 0 <= job.run.spent.items - len(rows - repeated) <= 4 < len(repeated & rows)


async def test_a_run_is_kept_while_a_judge_of_its_next_tier_is_away(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, save = fleet.scorers.check, store.save
    is_away, missed, renewed = False, 0, 0

    async def check_unless_away(uses: Sequence[ScorerUse]) -> None:
        nonlocal missed
        if is_away:
            missed += 1
            raise UnavailableError("restarting", retry_after_seconds=0.01)
        await check(uses)

    async def count(run: Run, epoch: int, *, lease_seconds: float | None = None) -> None:
        nonlocal renewed
        await save(run, epoch, lease_seconds=lease_seconds)
        renewed += bool(missed and lease_seconds)

    monkeypatch.setattr(fleet.scorers, "check", check_unless_away)
    monkeypatch.setattr(store, "save", count)
    runs = RunManager(
        store, book, fleet.peers, parallel_runs=2, default_concurrency=4, patience_seconds=LONGEST_WAIT_SECONDS,
        lease_times=LeaseTimes(renewal_seconds=0.01),
    )  # fmt: skip
    run = await runs.create(escalating("smoke"))
    is_away = True
    await runs.start()
    await until(lambda: renewed > 2)
    is_away = False
    ended = await end_of(runs, run.run_id)
    await runs.stop()
    assert ended.state is RunState.SUCCEEDED
    assert ended.escalation is not None
    assert ended.escalation.next_run == "runs/r-standard"


async def test_a_run_succeeds_whose_next_tier_cannot_be_made(
    store: RunStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = manager(store, book, fleet)
    run = await runs.create(escalating("smoke"))

    async def fail(_: Sequence[ScorerUse]) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(fleet.scorers, "check", fail)
    await runs.start()
    ended = await end_of(runs, run.run_id)
    await runs.stop()
    assert ended.state is RunState.SUCCEEDED
    assert ended.escalation is not None
    assert not ended.escalation.next_run


async def test_the_next_run_is_made_once_whoever_makes_it(store: RunStore, book: Book, fleet: Any) -> None:
    makers = [RunMaker(store, book, fleet.peers, default_concurrency=4, patience_seconds=5.0) for _ in range(2)]
    first = dataclasses.replace(
        await makers[0].make(escalating("smoke")), state=RunState.SUCCEEDED, stop_reason=StopReason.DECIDED
    )
    linked = await asyncio.gather(*(maker.make_next(first) for maker in makers))
    assert linked[0] == linked[1]
    assert linked[0].escalation is not None
    assert linked[0].escalation.next_run == "runs/r-standard"
    assert sorted(run.run_id for run in await store.page(size=9)) == ["r", "r-standard"]
    spent = dataclasses.replace(first, stop_reason=StopReason.CALLER_BUDGET_EXHAUSTED)
    assert await makers[0].make_next(spent) == spent


async def test_another_run_of_the_same_name_is_no_next_tier(store: RunStore, book: Book, fleet: Any) -> None:
    runs = manager(store, book, fleet)
    await runs.create(dataclasses.replace(escalating("deep"), run_id="r-standard"))
    await runs.create(escalating("smoke"))
    await runs.start()
    ended = [await end_of(runs, run_id) for run_id in ("r", "r-standard")]
    await runs.stop()
    for run in ended:
        assert run.state is RunState.SUCCEEDED
        assert run.escalation is not None
        assert not run.escalation.next_run
    assert len(await store.page(size=9)) == 2


async def test_long_names_that_differ_at_their_end_have_different_next_runs(
    store: RunStore, book: Book, fleet: Any
) -> None:
    maker = RunMaker(store, book, fleet.peers, default_concurrency=4, patience_seconds=5.0)
    names = set()
    for last in "ab":
        run = await maker.make(dataclasses.replace(escalating("smoke"), run_id=f"r{'-long' * 12}{last}"))
        for _ in range(2):
            escalation = (await maker.make_next(run)).escalation
            assert escalation is not None
            names.add(escalation.next_run)
            following = await store.get(escalation.next_run.removeprefix("runs/"))
            assert following is not None
            assert len(following.run_id) <= 63
            run = following
    assert len(names) == 4


async def test_what_is_new_since_the_suites_latest_run_chooses_the_tier(
    store: RunStore, book: Book, fleet: Any
) -> None:
    maker = RunMaker(store, book, fleet.peers, default_concurrency=4, patience_seconds=5.0)
    request = RunRequest("demo", "models/tiny", wish=GoalWish(tier="auto"))
    book.suite = dataclasses.replace(
        book.suite, starting_tiers={**book.suite.starting_tiers, "unchanged": "deep", "minor": "smoke"}
    )
    found = []
    for digest, base, lineage in (("1", "a", "x"), ("1", "a", "x"), ("2", "a", "x"), ("3", "b", "x"), ("4", "c", "y")):
        fleet.generator.digest, fleet.generator.base_digest, fleet.generator.lineage_digest = digest, base, lineage
        run = await maker.make(request)
        assert run.goal.tier_choice is not None
        found.append((run.goal.tier_choice.change.value, run.goal.tier))
        stored = await store.get(run.run_id)
        assert stored == run
        claim = await store.claim("me", lease_seconds=60)
        assert claim is not None
        await store.save(dataclasses.replace(run, state=RunState.SUCCEEDED), claim.epoch)
    assert found == [
        ("major", "deep"),
        ("unchanged", "deep"),
        ("adapter", "smoke"),
        ("minor", "smoke"),
        ("major", "deep"),
    ]
    assert run.goal.tier_choice is not None
    assert run.goal.tier_choice.reason.startswith("another configuration, tokenizer or chat template than in runs/demo")
    told = await maker.make(dataclasses.replace(request, wish=GoalWish(tier="auto", change=ModelChange.ADAPTER)))
    assert (told.goal.tier, told.goal.tier_choice and told.goal.tier_choice.compared_run) == ("smoke", "")


async def test_the_runs_of_a_ranking_do_not_choose_the_tier(store: RunStore, book: Book, fleet: Any) -> None:
    maker = RunMaker(store, book, fleet.peers, default_concurrency=4, patience_seconds=5.0)
    request = RunRequest("demo", "models/tiny", wish=GoalWish(tier="auto"))
    run = dataclasses.replace(await maker.make(request), state=RunState.SUCCEEDED)
    claim = await store.claim("me", lease_seconds=60)
    assert claim is not None
    await store.save(run, claim.epoch)
    decision = TaskDecision("shout", "exact_match", (), True, 0.9, 0.8, 1.0, 0.98, "fake", 16, 16, 40, 24)
    later = dataclasses.replace(
        run,
        run_id="rank-1",
        create_time=run.create_time + 1,
        goal=Goal(uses_history=False),
        decisions=(decision,),
        model_digest="another",
        base_digest=None,
        lineage_digest=None,
    )
    await store.add(later)
    choice = (await maker.make(request)).goal.tier_choice
    assert choice is not None
    assert (choice.change, choice.compared_run) == (ModelChange.UNCHANGED, run.name)


async def test_without_gates_there_is_no_smoke_to_begin_with(store: RunStore, book: Book, fleet: Any) -> None:
    book.suite = dataclasses.replace(book.suite, tiers={})
    maker = RunMaker(store, book, fleet.peers, default_concurrency=4, patience_seconds=5.0)
    wish = GoalWish(tier="auto", change=ModelChange.ADAPTER)
    run = await maker.make(RunRequest("demo", "models/tiny", wish=wish))
    assert run.goal.tier == "standard"
    assert run.goal.tier_choice is not None
    assert "smoke needs gates" in run.goal.tier_choice.reason
    assert run.spent == Spend()


async def test_a_deep_tier_asks_for_several_samples_and_its_own_judge(
    store: RunStore, book: Book, fleet: Any, make_task: Any
) -> None:
    deep = TierSpec(samples=3, temperature=0.7, safety=JudgeChoice(policy="strict"))
    judged, choices = make_task(safety={"guard": "keywords"}), make_task("pick")
    choices = dataclasses.replace(
        choices, spec=choices.spec.model_copy(update={"request": RequestKind.MULTIPLE_CHOICE})
    )
    suite = Suite("demo", "a suite", (judged, choices), tiers={"deep": deep})
    goal = goal_of(GoalWish(tier="deep"), suite)
    generated, picked = suite_for(goal, suite).tasks
    assert (generated.spec.generation.sample_count, generated.spec.generation.temperature) == (3, 0.7)
    assert generated.spec.safety is not None
    assert (generated.spec.safety.policy, generated.spec.safety.guard) == ("strict", None)
    assert picked == choices
    assert suite_for(goal, suite).digest != suite.digest == suite_for(goal_of(GoalWish(), suite), suite).digest
    own = goal_of(GoalWish(tier="deep", depth=Depth(sample_count=5)), suite)
    assert (own.depth.sample_count, own.depth.temperature) == (5, 0.7)
    with pytest.raises(FailedPreconditionError, match="temperature above 0"):
        suite_for(goal_of(GoalWish(depth=Depth(sample_count=2)), suite), suite)


async def test_every_sample_of_a_deep_run_has_its_outcome_also_after_smoke(
    store: RunStore, book: Book, fleet: Any
) -> None:
    tiers = {**book.suite.tiers, "deep": TierSpec(samples=2, temperature=0.5)}
    book.suite = dataclasses.replace(book.suite, tiers=tiers)
    runs = manager(store, book, fleet)
    await runs.start()
    *_, deep = await climbed(runs, escalating("standard"))
    await runs.stop()
    assert deep.state is RunState.SUCCEEDED
    assert deep.progress[0].scored_count == 80
    assert {key[3] for key in fleet.ledger.rows if key[0] == deep.name} == {0, 1}
    assert (await store.get(deep.run_id)) == deep
