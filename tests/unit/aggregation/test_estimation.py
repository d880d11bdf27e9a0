"""Estimates of a run, by hand and under every way of cutting it into pieces."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregation.corrected_rates import GuardQuality, corrected_rate
from services.aggregation.estimation import Estimate, RunTally
from services.aggregation.intervals import wilson_interval
from services.aggregation.records import Cost, Failed, MetricFailure, Observation, ResultKey, Scored


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


NO_VERDICT = MetricFailure(("judged",), "JUDGE_UNPARSABLE", "no verdict")
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


def unjudged(accuracy: float) -> Scored:
    """What exact match scored and a judge answered with garbage."""
    return Scored({"acc": accuracy}, failures=(NO_VERDICT,))


def both(accuracy: float, judged: float) -> Scored:
    return Scored({"acc": accuracy, "judged": judged})


def test_an_item_without_a_verdict_is_an_error_of_that_metric_alone() -> None:
    found = estimates([seen("a", both(1.0, 1.0)), seen("b", both(0.0, 1.0)), seen("c", unjudged(1.0))])
    accuracy, judged = found["t", "acc", ""], found["t", "judged", ""]
    assert accuracy.value == pytest.approx(2 / 3)
    assert (accuracy.failed_count, accuracy.unjudged_count) == (0, 0)
    assert accuracy.failures_by_reason == {}
    assert (judged.value, judged.scored_count, judged.failed_count, judged.failed_counted) == (1.0, 2, 1, 0)
    assert (judged.unjudged_count, judged.failures_by_reason) == (1, {"JUDGE_UNPARSABLE": 1})
    # Nobody knows the third: the interval reaches from that of 2 in 3 to that of 3 in 3.
    assert judged.interval is not None
    assert judged.interval.method == "wilson-unjudged"
    assert judged.interval.lower == wilson_interval(2, 3, 0.95).lower
    assert judged.interval.upper == wilson_interval(3, 3, 0.95).upper == 1.0


def test_a_judge_that_gave_no_verdict_at_all_leaves_no_number_and_every_count() -> None:
    garbage = Failed("JUDGE_UNPARSABLE", counted_as={}, failures=(NO_VERDICT,))
    found = estimates([seen("a", garbage, groups={"g": "x"}), seen("b", garbage)])
    for group, count in (("", 2), ("g=x", 1)):
        judged = found["t", "judged", group]
        assert (judged.value, judged.interval, judged.value_scored_only) == (None, None, None)
        assert (judged.scored_count, judged.failed_count, judged.unjudged_count) == (0, count, count)
        assert judged.failures_by_reason == {"JUDGE_UNPARSABLE": count}


def test_a_metric_that_failed_counts_as_the_task_says_where_it_says_so() -> None:
    slow = MetricFailure(("judged",), "PATTERN_TIMEOUT", counted_as={"judged": 0.0})
    found = estimates([seen("a", both(1.0, 1.0)), seen("b", Scored({"acc": 1.0}, failures=(slow,)))])
    judged = found["t", "judged", ""]
    assert (judged.value, judged.value_scored_only, judged.failed_counted, judged.unjudged_count) == (0.5, 1.0, 1, 0)
    assert judged.interval is not None
    assert judged.interval.method == "wilson"


def test_an_item_that_failed_twice_is_counted_once_and_by_its_metrics_reason() -> None:
    guard = MetricFailure(("unsafe",), "SAFETY_VERDICT_ERROR")
    lost = Failed("JUDGE_UNPARSABLE", counted_as={"unsafe": 1.0}, failures=(NO_VERDICT, guard))
    found = estimates([seen("a", lost), seen("b", LEFT_OUT), seen("c", Scored({"judged": 0.0, "unsafe": 0.0}))])
    assert found["t", "judged", ""].failures_by_reason == {"JUDGE_UNPARSABLE": 1, "PROMPT_TOO_LONG": 1}
    unsafe = found["t", "unsafe", ""]
    assert unsafe.failures_by_reason == {"SAFETY_VERDICT_ERROR": 1, "PROMPT_TOO_LONG": 1}
    assert (unsafe.value, unsafe.failed_count, unsafe.failed_counted, unsafe.unjudged_count) == (0.5, 2, 1, 0)


def test_a_sample_without_a_verdict_leaves_its_item_open_and_pass_rates_untold() -> None:
    found = estimates(
        [
            seen("a", Scored({"judged": 1.0}), sample=0),
            seen("a", Failed("JUDGE_UNPARSABLE", failures=(NO_VERDICT,)), sample=1),
            seen("b", Scored({"judged": 0.0}), sample=0),
            seen("b", Scored({"judged": 1.0}), sample=1),
            seen("c", Scored({"judged": 0.0}), sample=0),
            seen("c", Scored({"judged": 0.0}), sample=1),
        ]
    )
    judged = found["t", "judged", ""]
    assert judged.value == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert judged.sample_count == 5
    assert (judged.unjudged_count, judged.passes) == (1, ())
    assert judged.interval is not None
    assert judged.interval.method == "student-t-unjudged"
    assert judged.interval.lower < 1 / 3 < 1 / 2 < judged.interval.upper


def test_nobody_says_how_far_an_unjudged_item_of_an_open_range_may_lie() -> None:
    found = estimates(
        [seen("a", Scored({"judged": 12.5})), seen("b", Scored({"judged": 80.0})), seen("c", unjudged(1.0))]
    )
    judged = found["t", "judged", ""]
    assert (judged.value, judged.interval, judged.unjudged_count) == (46.25, None, 1)


def test_a_corrected_rate_holds_whatever_the_unjudged_items_are() -> None:
    quality = GuardQuality(unsafe_count=200, unsafe_found=182, safe_count=400, safe_cleared=391)
    outcomes = [Scored({"judged": float(index < 3)}) for index in range(20)] + [unjudged(1.0)] * 5
    task = tally([seen(f"{index:02}", outcome) for index, outcome in enumerate(outcomes)]).tasks[0]
    (judged,) = [each for each in task.estimates(0.95, {"judged": quality}) if each.metric == "judged"]
    assert judged.corrected is not None
    assert judged.corrected.value == corrected_rate(3, 20, quality, 0.95).value
    assert judged.corrected.interval.lower == corrected_rate(3, 25, quality, 0.95).interval.lower
    assert judged.corrected.interval.upper == corrected_rate(8, 25, quality, 0.95).interval.upper


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=2, max_size=12), st.data())
def test_whatever_was_not_judged_the_completed_runs_interval_lies_within(
    verdicts: list[float | None], data: st.DataObject
) -> None:
    def interval(values: Sequence[float | None]) -> tuple[float, float] | None:
        outcomes = [unjudged(1.0) if each is None else both(1.0, each) for each in values]
        found = estimates([seen(f"{index:02}", outcome) for index, outcome in enumerate(outcomes)])
        limits = found["t", "judged", ""].interval
        return None if limits is None else (limits.lower, limits.upper)

    known = interval(verdicts)
    completed = interval([data.draw(st.sampled_from([0.0, 1.0])) if each is None else each for each in verdicts])
    if known is None:
        assert set(verdicts) == {None}
    else:
        assert completed is not None
        assert known[0] <= completed[0] <= completed[1] <= known[1]


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
    st.sampled_from([Scored({"f1": 1.0}, failures=(MetricFailure(("acc",), "JUDGE_UNPARSABLE"),))]),
    st.sampled_from([Failed("A", counted_as={}, failures=(MetricFailure(("acc", "f1"), "JUDGE_UNPARSABLE"),))]),
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
            assert estimate.failed_count == sum(estimate.failures_by_reason.values())
            assert estimate.unjudged_count <= estimate.failed_count


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
