"""What an open run wants of the models, by how far it is."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.record import Run, TaskProgress
from services.evaluation.scaling.demand import Demand, Deployment, demand_of_run, total

RUN = Run("r", "demo", "s", "models/tiny", "m", seed=1, concurrency=32, create_time=1.0)


def test_a_run_wants_as_many_items_at_once_as_it_may_have() -> None:
    unread = replace(RUN, progress=(TaskProgress("a"), TaskProgress("b", 10)))
    assert demand_of_run(unread, frozenset("b")) == Demand(32, 10, 1)
    long = replace(RUN, progress=(TaskProgress("a", 1000, 300, 2), TaskProgress("b", 10)))
    assert demand_of_run(long, frozenset()) == Demand(32, 0, 1)


def test_at_its_end_it_wants_those_that_are_left_and_one_until_it_has_ended() -> None:
    run = replace(RUN, progress=(TaskProgress("a", 100, 90, 3), TaskProgress("b", 50, 48, 0)))
    assert demand_of_run(run, frozenset("b")) == Demand(9, 2, 1)
    done = replace(RUN, progress=(TaskProgress("a", 100, 97, 3),))
    assert demand_of_run(done, frozenset("a")) == Demand(1, 0, 1)


def test_items_of_a_task_that_is_decided_are_wanted_no_more() -> None:
    decision = TaskDecision(
        task="a", metric="m", questions=(), is_decided=True, value=0.5, lower=0.4, upper=0.6, confidence_level=0.95,
        method="x", completed_count=60, drawn_count=60, item_count=1000, saved_count=940, is_exact=False,
    )  # fmt: skip
    run = replace(RUN, progress=(TaskProgress("a", 1000, 60), TaskProgress("b", 1000, 995)), decisions=(decision,))
    assert demand_of_run(run, frozenset("a")) == Demand(5, 0, 1)
    assert demand_of_run(replace(run, decisions=(replace(decision, is_decided=False),)), None) == Demand(32, 32, 1)


def test_a_suite_that_cannot_be_read_may_need_the_guard() -> None:
    assert demand_of_run(replace(RUN, progress=(TaskProgress("a"),)), None).of(Deployment.GUARD) == 32


@given(st.lists(st.tuples(st.none() | st.integers(0, 50), st.integers(0, 60)), max_size=4), st.integers(1, 1024))
def test_whatever_an_open_run_says_it_keeps_its_models_awake(
    tasks: list[tuple[int | None, int]], concurrency: int
) -> None:
    progress = tuple(TaskProgress(str(n), count, done) for n, (count, done) in enumerate(tasks))
    demand = demand_of_run(replace(RUN, progress=progress, concurrency=concurrency), None)
    assert 1 <= demand.of(Deployment.GENERATION) <= concurrency
    assert demand.of(Deployment.GUARD) <= demand.of(Deployment.TRITON) == demand.of(Deployment.GENERATION)


def test_demands_add_up() -> None:
    assert total([]) == Demand()
    assert total([Demand(3, 1, 1), Demand(4, 0, 1)]) == Demand(7, 1, 2)
    assert total([Demand(3, 1, 1)]).of(Deployment.EVALUATION) == 1
