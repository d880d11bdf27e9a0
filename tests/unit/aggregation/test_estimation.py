"""Estimates of a run, by hand and under every way of cutting it into pieces."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregation.estimation import Estimate, RunTally
from services.aggregation.records import Cost, Failed, Observation, ResultKey, Scored


def seen(
    item: str,
    outcome: Scored | Failed | float,
    *,
    task: str = "t",
    sample: int = 0,
    groups: dict[str, str] | None = None,
    cost: Cost | None = None,
    is_truncated: bool = False,
) -> Observation:
    judged = Scored({"acc": outcome}) if isinstance(outcome, float) else outcome
    return Observation(ResultKey(task, item, sample), judged, groups or {}, cost or Cost(), is_truncated)


def tally(observations: Sequence[Observation], cut: Callable[[int], int] = lambda index: 1) -> RunTally:
    run = RunTally()
    start = 0
    while start < len(observations):
        size = cut(start)
        run.add(observations[start : start + size])
        start += size
    run.finish()
    return run


def estimates(observations: Sequence[Observation]) -> dict[tuple[str, str, str], Estimate]:
    found = [each for task in tally(observations).tasks for each in task.estimates(0.95)]
    keys = [(each.task, each.metric, each.group) for each in found]
    assert keys == sorted(keys)
    return dict(zip(keys, found, strict=True))


LEFT_OUT = Failed("PROMPT_TOO_LONG")
COUNTED_WRONG = Failed("PROMPT_TOO_LONG", counted_as={"acc": 0.0})


def test_failed_items_count_as_the_task_says() -> None:
    estimate = estimates(
        [seen("a", 1.0), seen("b", 0.0), seen("c", 1.0), seen("d", COUNTED_WRONG), seen("e", LEFT_OUT)]
    )
    whole = estimate["t", "acc", ""]
    assert whole.value == 0.5  # 1, 0, 1 and the failed 0
    assert whole.value_scored_only == pytest.approx(2 / 3)
    assert (whole.scored_count, whole.failed_count, whole.failed_counted, whole.sample_count) == (3, 2, 1, 4)
    assert whole.interval is not None
    assert whole.interval.method == "wilson"


def test_only_failures_without_a_value_leave_totals_alone() -> None:
    run = tally([seen("a", LEFT_OUT), seen("b", LEFT_OUT)])
    assert list(run.tasks[0].estimates(0.95)) == []
    assert run.tasks[0].totals.failed_count == 2


def test_a_group_whose_items_all_failed_is_shown_without_a_value() -> None:
    found = estimates([seen("a", 1.0, groups={"label": "safe"}), seen("b", LEFT_OUT, groups={"label": "harmful"})])
    harmful = found["t", "acc", "label=harmful"]
    assert (harmful.value, harmful.interval, harmful.standard_error, harmful.value_scored_only) == (None,) * 4
    assert (harmful.scored_count, harmful.failed_count, harmful.failed_counted) == (0, 1, 0)
    assert found["t", "acc", "label=safe"].value == 1.0


def test_samples_are_averaged_per_item_first() -> None:
    found = estimates([seen("a", 1.0), seen("b", 0.0, sample=0), seen("b", 0.0, sample=1), seen("b", 1.0, sample=2)])
    whole = found["t", "acc", ""]
    assert whole.value == pytest.approx((1 + 1 / 3) / 2)
    assert (whole.scored_count, whole.sample_count) == (2, 4)
    assert whole.interval is not None
    assert whole.interval.method == "student-t"


def test_an_item_with_a_failed_sample_is_failed_and_keeps_its_scored_samples() -> None:
    found = estimates(
        [
            seen("a", 1.0, sample=0),
            seen("a", COUNTED_WRONG, sample=1),
            seen("b", 1.0, sample=0),
            seen("b", LEFT_OUT, sample=1),
        ]
    )
    whole = found["t", "acc", ""]
    assert whole.value == pytest.approx((0.5 + 1.0) / 2)
    assert whole.value_scored_only == 1.0
    assert (whole.scored_count, whole.failed_count, whole.failed_counted, whole.sample_count) == (0, 2, 2, 3)


def test_metrics_and_groups_are_estimated_apart() -> None:
    found = estimates(
        [
            seen("a", Scored({"acc": 1.0, "f1": 0.25}), groups={"label": "x", "lang": "en"}),
            seen("b", Scored({"acc": 0.0}), groups={"label": "y"}),
            seen("c", Scored({"acc": 1.0, "f1": 0.75}), groups={"label": "x"}),
            seen("a", 0.0, task="u"),
        ]
    )
    assert {key: each.value for key, each in found.items()} == {
        ("t", "acc", ""): pytest.approx(2 / 3),
        ("t", "acc", "label=x"): 1.0,
        ("t", "acc", "label=y"): 0.0,
        ("t", "acc", "lang=en"): 1.0,
        ("t", "f1", ""): 0.5,
        ("t", "f1", "label=x"): 0.5,
        ("t", "f1", "lang=en"): 0.25,
        ("u", "acc", ""): 0.0,
    }
    assert found["t", "f1", ""].scored_count == 2  # "b" has no f1


def test_totals() -> None:
    cost = Cost(prompt_tokens=10, completion_tokens=2, engine_nanoseconds=5)
    run = tally(
        [
            seen("a", 1.0, cost=cost, is_truncated=True),
            seen("b", LEFT_OUT, cost=cost),
            seen("c", 1.0, sample=0, cost=cost, is_truncated=True),
            seen("c", Failed("TIMEOUT"), sample=1, cost=cost, is_truncated=True),
            seen("c", Failed("OTHER"), sample=2, cost=cost),
        ]
    )
    totals = run.tasks[0].totals
    assert (totals.item_count, totals.scored_count, totals.failed_count, totals.truncated_count) == (3, 1, 2, 2)
    assert totals.failures_by_reason == {"PROMPT_TOO_LONG": 1, "TIMEOUT": 1}
    assert totals.cost == Cost(50, 10, 25)


def test_an_empty_run_has_no_tasks() -> None:
    assert tally([]).tasks == []


OUTCOMES = st.one_of(
    st.sampled_from([LEFT_OUT, COUNTED_WRONG]),
    st.builds(lambda value: Scored({"acc": value}), st.sampled_from([0.0, 0.5, 1.0])),
    st.builds(lambda value: Scored({"acc": value, "f1": 1.0}), st.sampled_from([0.0, 1.0])),
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("tu"), st.sampled_from("abcd"), st.integers(0, 2)), OUTCOMES, min_size=1, max_size=20
    ),
    st.lists(st.integers(1, 5), min_size=1),
)
def test_pieces_may_end_anywhere(outcomes: dict[tuple[str, str, int], Scored | Failed], sizes: list[int]) -> None:
    observations = [
        seen(item, outcomes[task, item, sample], task=task, sample=sample) for task, item, sample in sorted(outcomes)
    ]
    whole = tally(observations, lambda index: len(observations))
    pieces = tally(observations, lambda index: sizes[index % len(sizes)])
    assert [list(task.estimates(0.95)) for task in pieces.tasks] == [list(task.estimates(0.95)) for task in whole.tasks]
    assert [task.totals for task in pieces.tasks] == [task.totals for task in whole.tasks]
    for task in whole.tasks:
        assert task.totals.item_count == task.totals.scored_count + task.totals.failures_by_reason.total()
        for estimate in task.estimates(0.95):
            assert estimate.failed_counted <= estimate.failed_count
            assert (estimate.value is None) == (estimate.scored_count + estimate.failed_counted == 0)


def test_several_samples_an_item_come_to_pass_rates_of_the_whole_task() -> None:
    partly: list[Failed | float] = [1.0, 1.0, COUNTED_WRONG]
    samples = [
        *(seen("a", value, sample=index, groups={"kind": "x"}) for index, value in enumerate((1.0, 0.0, 1.0))),
        *(seen("b", value, sample=index) for index, value in enumerate((0.0, 0.0, 0.0))),
        *(seen("c", outcome, sample=index) for index, outcome in enumerate(partly)),
    ]
    found = estimates(samples)
    rates = {each.k: each for each in found["t", "acc", ""].passes}
    assert sorted(rates) == [1, 2, 3]
    assert rates[1].any_of == pytest.approx(found["t", "acc", ""].value) == pytest.approx(4 / 9)
    assert [rates[2].any_of, rates[2].all_of] == pytest.approx([2 / 3, 2 / 9])
    assert [rates[3].any_of, rates[3].all_of] == pytest.approx([2 / 3, 0.0])
    assert rates[3].item_count == 3
    assert found["t", "acc", "kind=x"].passes == ()


def test_one_sample_an_item_and_graded_samples_have_no_pass_rates() -> None:
    assert estimates([seen("a", 1.0), seen("b", 0.0)])["t", "acc", ""].passes == ()
    graded = [seen("a", 0.5), seen("a", 1.0, sample=1), seen("b", 1.0), seen("b", 1.0, sample=1)]
    assert estimates(graded)["t", "acc", ""].passes == ()
