"""Budgets: nothing is asked that does not fit, and what is exceeded is bounded by what is in flight."""

from random import Random

import pytest

from services.evaluation.runs.budget import Budget, BudgetKeeper, ItemCosts, Spend
from services.runtime.usage import Usage


def keeper(budget: Budget, spent: Spend | None = None, clock: list[float] | None = None) -> BudgetKeeper:
    times = clock if clock is not None else [0.0]
    return BudgetKeeper(budget, spent=spent or Spend(), now=lambda: times[-1])


def test_an_item_takes_what_was_computed_and_not_what_a_cache_saved() -> None:
    usage = Usage(100, 20, 0.5, computed_prompt_tokens=30, computed_completion_tokens=5, cost_micro_usd=7)
    assert Spend.of_item(usage) == Spend(1, 35, 0.5, 7)


def test_items_are_counted_exactly() -> None:
    book = keeper(Budget(items=3))
    assert [book.reserve("a") is not None for _ in range(5)] == [True, True, True, False, False]


def test_until_the_cost_of_an_item_is_known_one_is_in_flight() -> None:
    book = keeper(Budget(tokens=1000))
    first = book.reserve("a")
    assert first is not None
    others = [book.reserve(task) for task in "aab"]
    assert [each is not None for each in others] == [False, False, True]
    book.settle("a", first, Spend(1, 100))
    assert [book.reserve("a") is not None for _ in range(10)] == [True] * 9 + [False]


def test_a_cancelled_item_counts_as_what_was_reserved() -> None:
    book = keeper(Budget(tokens=250))
    book.learn("a", Spend(1, 100))
    first, second = book.reserve("a"), book.reserve("a")
    assert first is not None
    assert second is not None
    book.settle("a", first, None)
    book.settle("a", second, Spend(1, 60))
    assert book.spent == Spend(2, 160)
    assert book.reserve("a") is None


def test_what_an_earlier_process_spent_is_spent() -> None:
    book = keeper(Budget(cost_micro_usd=100), Spend(10, 0, 0.0, 95))
    book.learn("a", Spend(1, 0, 0.0, 9))
    assert book.reserve("a") is None


def test_an_item_that_an_earlier_run_has_paid_for_is_no_further_one_but_costs_what_it_costs() -> None:
    book = keeper(Budget(items=1, tokens=200))
    first = book.reserve("a", is_repeated=True)
    assert first is not None
    # Until the cost of one is known, one is in flight.
    assert book.reserve("a", is_repeated=True) is None
    book.settle("a", first, Spend(0, 90))
    second = book.reserve("a", is_repeated=True)
    assert second is not None
    assert (first, second) == (Spend(), Spend(0, 90))
    assert book.reserve("a", is_repeated=True) is None
    book.settle("a", second, Spend(0, 90))
    assert book.reserve("a", is_repeated=True) is None
    assert book.reserve("a") == Spend(1)


def test_items_from_a_cache_do_not_make_others_look_cheap() -> None:
    book = keeper(Budget(tokens=1000))
    book.learn("a", Spend(1, 100))
    for _ in range(50):
        repeated = book.reserve("a", is_repeated=True)
        assert repeated is not None
        book.settle("a", repeated, Spend())
    assert book.reserve("a") == Spend(1, 100)


def test_time_is_up_for_every_item() -> None:
    clock = [0.0]
    book = keeper(Budget(wall_seconds=10), clock=clock)
    admitted = [book.reserve("a") is not None]
    clock.append(10.0)
    admitted.append(book.reserve("a") is not None)
    assert admitted == [True, False]


def test_nothing_is_known_of_costs_before_the_first_item() -> None:
    assert ItemCosts().high is None


def test_nine_of_ten_recent_items_fit_into_a_reservation() -> None:
    costs = ItemCosts()
    for tokens in range(1, 501):
        costs.add(Spend(1, tokens))
    high = costs.high
    assert high is not None
    # Of the last 200, from 301 to 500.
    assert 478 <= high.tokens <= 482


def _random_cost(rng: Random) -> Spend:
    """Mostly small, now and then fifty times as much, as answers are that do not stop."""
    tokens = rng.randint(1, 40) * (50 if rng.random() < 0.05 else 1)
    return Spend(1, tokens, tokens / 100, tokens * 3)


@pytest.mark.parametrize("seed", range(100))
def test_a_budget_is_exceeded_by_no_more_than_what_is_in_flight(seed: int) -> None:
    rng = Random(seed)
    budget = Budget(
        items=rng.choice([None, rng.randint(1, 300)]),
        tokens=rng.choice([None, rng.randint(1, 8000)]),
        engine_seconds=rng.choice([None, rng.uniform(0.1, 80)]),
        cost_micro_usd=rng.randint(1, 24_000),
    )
    book = keeper(budget)
    in_flight: list[tuple[str, Spend, Spend]] = []
    allowance, ledger = Spend(), Spend()
    concurrency = rng.choice([1, 4, 32])
    for _ in range(4000):
        if rng.random() < 0.005:
            # Another replica takes over: what is in flight is lost, and the ledger knows what was spent.
            book, in_flight = keeper(budget, ledger), []
            if ledger.items:
                book.learn("a", ledger.mean)
        task = rng.choice("ab")
        reserved = book.reserve(task) if len(in_flight) < concurrency else None
        if reserved is not None:
            in_flight.append((task, reserved, _random_cost(rng)))
            allowance = Spend()
            for _, kept, actual in in_flight:
                beyond = actual - kept
                allowance += Spend(*(max(0.0, getattr(beyond, name)) for name in Spend.__slots__))
        elif in_flight:
            task, reserved, actual = in_flight.pop(rng.randrange(len(in_flight)))
            ledger += actual
            book.settle(task, reserved, actual)
        else:
            break
    assert not in_flight
    for name in Spend.__slots__:
        limit = getattr(budget, name)
        if limit is not None:
            assert getattr(ledger, name) <= limit + getattr(allowance, name) + 1e-6, name
    assert budget.items is None or ledger.items <= budget.items
