"""What a run would cost: by earlier runs of this model, of others, or by its prompts; nothing is spent for it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services.evaluation.items import Item, PlainPrompt
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.gates import Gate, GoalWish, Precision, TaskQuestions, parsed_gate
from services.evaluation.runs.peers import TaskFindings
from services.evaluation.runs.planner import RunPlanner
from services.evaluation.runs.planning import CostBasis, expected_items
from services.evaluation.runs.record import Run, RunRequest, RunState, TaskProgress
from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from services.runtime.errors import FailedPreconditionError, NotFoundError
from tests.unit.evaluation.runs.suite_books import Book

ITEMS = 1000


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    suite = Suite("demo", "a suite", (make_task(generation={"max_tokens": 100}),))
    return Book(suite, [make_item("x" * 300) for _ in range(ITEMS)])


class FindingsLedger:
    """A ledger that knows what runs have found, and nothing else."""

    def __init__(self, findings: Mapping[str, TaskFindings]) -> None:
        self.known = findings
        self.deleted: set[str] = set()

    async def findings(self, run: str) -> Mapping[str, TaskFindings]:
        if run in self.deleted:
            raise FailedPreconditionError("deleted", reason="RUN_RESULTS_DELETED")
        return {"shout": self.known[run]} if run in self.known else {}


def planner(
    store: RunStore, book: Book, findings: Mapping[str, TaskFindings] | None = None, *, deleted: Sequence[str] = ()
) -> RunPlanner:
    ledger: Any = FindingsLedger(findings or {})
    ledger.deleted.update(deleted)
    generator: Any = None
    return RunPlanner(store, book, ledger, generator)


async def put_run(store: RunStore, run_id: str, model: str, when: float) -> None:
    """A run of 100 items in 50 seconds."""
    progress = TaskProgress("shout", ITEMS, scored_count=100, data_digest="rows-1")
    run = Run(run_id, "demo", "sd", model, "digest", seed=1, concurrency=4, create_time=when, progress=(progress,))
    await store.add(dataclasses.replace(run, state=RunState.SUCCEEDED, start_time=when, end_time=when + 50))


def found(tokens: int, score: float = 0.7) -> TaskFindings:
    return TaskFindings(Spend(100, tokens, 20.0, 5000), {"exact_match": score})


async def test_without_earlier_runs_prompts_bound_the_tokens(store: RunStore, book: Book) -> None:
    plan = await planner(store, book).plan(RunRequest("demo", "models/new"))
    (task,) = plan.tasks
    assert (task.basis, task.basis_run, task.expected_item_count) == (CostBasis.PROMPTS, "", ITEMS)
    assert task.expected.tokens == (300 / 3 + 100) * ITEMS


async def test_texts_whose_likelihood_is_asked_cost_their_own_tokens_and_no_answers(
    store: RunStore, book: Book
) -> None:
    text = Item("t", "shout", "x", 1, prompt=PlainPrompt("y" * 30), scored_text="x" * 270)
    plan = await planner(store, Book(book.suite, [text] * ITEMS)).plan(RunRequest("demo", "models/new"))
    assert plan.tasks[0].expected.tokens == 300 / 3 * ITEMS


@pytest.mark.parametrize(("aspect", "tokens"), [("prompt", 100), ("response", 2 * 100 + 200)])
async def test_what_a_guard_reads_is_foreseen(
    aspect: str, tokens: int, store: RunStore, make_task: Any, make_item: Any
) -> None:
    generation = {"max_tokens": 100, "sample_count": 2, "temperature": 0.5}
    plans = {}
    for safety in (None, {"aspect": aspect}):
        task = make_task(generation=generation, safety=safety)
        book = Book(Suite("demo", "a suite", (task,)), [make_item("x" * 300)])
        plans[safety is None] = (await planner(store, book).plan(RunRequest("demo", "models/new"))).expected.tokens
    assert plans[False] - plans[True] == tokens


async def test_an_earlier_run_of_this_model_is_believed_before_a_later_one_of_another(
    store: RunStore, book: Book
) -> None:
    await put_run(store, "mine", "models/new", 1.0)
    await put_run(store, "other", "models/old", 2.0)
    findings = {"runs/mine": found(2000), "runs/other": found(9000)}
    (task,) = (await planner(store, book, findings).plan(RunRequest("demo", "models/new"))).tasks
    assert (task.basis, task.basis_run) == (CostBasis.SAME_MODEL, "runs/mine")
    assert task.expected == Spend(ITEMS, 20 * ITEMS, 0.2 * ITEMS, 50 * ITEMS)
    assert task.wall_seconds == pytest.approx(0.5 * ITEMS)
    (task,) = (await planner(store, book, findings).plan(RunRequest("demo", "models/third"))).tasks
    assert (task.basis, task.basis_run) == (CostBasis.OTHER_MODEL, "runs/other")


async def test_a_run_that_the_cache_answered_says_nothing_about_cost(store: RunStore, book: Book) -> None:
    await put_run(store, "cached", "models/new", 1.0)
    (task,) = (await planner(store, book, {"runs/cached": found(0)}).plan(RunRequest("demo", "models/new"))).tasks
    assert task.basis is CostBasis.PROMPTS


async def test_a_run_whose_results_were_deleted_is_passed_over(store: RunStore, book: Book) -> None:
    await put_run(store, "older", "models/new", 1.0)
    await put_run(store, "newer", "models/new", 2.0)
    plans = planner(store, book, {"runs/older": found(2000)}, deleted=["runs/newer"])
    (task,) = (await plans.plan(RunRequest("demo", "models/new"))).tasks
    assert (task.basis, task.basis_run) == (CostBasis.SAME_MODEL, "runs/older")


async def test_a_gate_far_from_the_last_score_takes_few_items(store: RunStore, book: Book) -> None:
    await put_run(store, "mine", "models/new", 1.0)
    plans = {}
    for threshold in ("0.3", "0.65", "0.7"):
        wish = GoalWish(gates=(parsed_gate(f"shout>={threshold}"),))
        request = RunRequest("demo", "models/new", wish=wish)
        plans[threshold] = (await planner(store, book, {"runs/mine": found(2000)}).plan(request)).expected.items
    assert plans["0.3"] == 32
    assert 300 < plans["0.65"] < 900
    assert 990 < plans["0.7"] <= ITEMS


async def test_a_budget_cuts_the_plan_at_the_limit_that_is_met_first(store: RunStore, book: Book) -> None:
    await put_run(store, "mine", "models/new", 1.0)
    findings = {"runs/mine": found(2000)}
    wish = GoalWish(budget=Budget(items=800, tokens=5000))
    plan = await planner(store, book, findings).plan(RunRequest("demo", "models/new", wish=wish))
    assert plan.exceeds_budget
    assert plan.expected.tokens == pytest.approx(5000)
    assert plan.expected.items == pytest.approx(250)
    roomy = GoalWish(budget=Budget(tokens=50_000))
    assert not (await planner(store, book, findings).plan(RunRequest("demo", "", wish=roomy))).exceeds_budget


async def test_what_could_not_be_run_cannot_be_planned(store: RunStore, book: Book) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'demo'"):
        await planner(store, book).plan(RunRequest("dmeo", ""))
    with pytest.raises(NotFoundError, match="did you mean 'shout'"):
        await planner(store, book).plan(RunRequest("demo", "", wish=GoalWish(gates=(parsed_gate("shuot>=0.5"),))))


@pytest.mark.parametrize("population", [100, 10_000, 1_000_000])
def test_more_is_asked_of_more_items_and_never_more_than_there_are(population: int) -> None:
    def needed(*questions: Gate | Precision, score: float | None = None) -> int:
        return expected_items(TaskQuestions("t", "m", questions, 0.05), population, score)

    assert needed() == population
    near, far = parsed_gate("t>=0.5"), parsed_gate("t>=0.2")
    assert needed(far, score=0.55) <= needed(near, score=0.55) <= population
    assert needed(near, far, score=0.55) == needed(near, score=0.55)
    assert needed(Precision(0.05)) <= needed(Precision(0.01)) <= population
    assert needed(near) == needed(parsed_gate("t>=0.9"))
