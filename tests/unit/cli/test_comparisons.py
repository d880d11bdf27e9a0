"""`evalfleet compare`, `items` and `regressions`: what they ask, show, and how they end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from evalfleet.aggregation.v1 import comparison_pb2, item_analysis_pb2, regressions_pb2
from evalfleet.cli.plots import difference_bar, sparkline
from evalfleet.evaluation.v1 import evaluation_pb2

from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]
SUCCEEDED = evaluation_pb2.RUN_STATE_SUCCEEDED
NOT_INFERIOR = comparison_pb2.COMPARISON_DECISION_NOT_INFERIOR
INFERIOR = comparison_pb2.COMPARISON_DECISION_INFERIOR
UNDECIDED = comparison_pb2.COMPARISON_DECISION_UNDECIDED


def answer(
    decision: comparison_pb2.ComparisonDecision.ValueType = comparison_pb2.COMPARISON_DECISION_UNSPECIFIED,
) -> comparison_pb2.CompareRunsResponse:
    interval = comparison_pb2.DifferenceInterval(lower=-0.0125, upper=0.01, confidence_level=0.95, method="tango")
    comparison = comparison_pb2.Comparison(
        task="arithmetic",
        metric="exact_match",
        pairing=comparison_pb2.PAIRING_PAIRED,
        item_count=1200,
        base_value=0.75,
        variant_value=0.745,
        difference=-0.005,
        interval=interval,
        p_value=0.41,
        p_value_method="mcnemar-exact",
        variant_higher_count=10,
        base_higher_count=16,
        least_detectable=0.016,
    )
    if decision:
        is_decided = decision != UNDECIDED
        comparison.margin_decision.CopyFrom(
            comparison_pb2.MarginDecision(
                decision=decision,
                decided_after=310 if is_decided else None,
                prefix_count=1200,
                item_count=5000,
                interval=interval,
                undecided_reason="" if is_decided else "MORE_ITEMS_NEEDED",
            )
        )
    return comparison_pb2.CompareRunsResponse(comparisons=[comparison], decision=decision)


@pytest.fixture
def two_runs(fake: FakeFleet) -> FakeFleet:
    for name in ("r1", "r2"):
        run = make_run(name, done=10, state=SUCCEEDED)
        for progress in run.tasks:
            progress.data_digest = f"digest-{progress.task}-{name}"
        fake.evaluation.put(run)
    return fake


def test_the_primary_metrics_of_both_runs_are_compared(two_runs: FakeFleet, invoke: Invoke) -> None:
    two_runs.aggregation.comparisons = [answer()]
    result = invoke("compare", "r1", "runs/r2")
    assert result.exit_code == 0, result.output
    [request] = two_runs.aggregation.compare_requests
    assert (request.base_run, request.variant_run) == ("runs/r1", "runs/r2")
    assert not request.HasField("margin")
    asked = {each.task: each for each in request.metrics}
    assert (asked["arithmetic"].metric, asked["arithmetic"].lower_is_better) == ("exact_match", False)
    assert asked["arithmetic"].base_digest == "digest-arithmetic-r1"
    assert asked["arithmetic"].variant_digest == "digest-arithmetic-r2"
    assert asked["arithmetic"].item_count == 10
    row = next(line for line in result.stdout.splitlines() if line.startswith("arithmetic"))
    for cell in ("exact_match ↑", "0.750", "0.745", "-0.005", "-0.013 … +0.010", "0.410", "1,200", "●"):
        assert cell in row, row
    assert "true difference that four of five such comparisons find: arithmetic exact_match 0.016" in result.stdout


@pytest.mark.parametrize(
    ("decision", "code", "said"),
    [
        (NOT_INFERIOR, 0, "is not inferior: worse by no more than 0.01"),
        (INFERIOR, 1, "is inferior: worse by more than 0.01"),
        (UNDECIDED, 2, "undecided whether"),
    ],
)
def test_the_answer_is_the_exit_code(
    two_runs: FakeFleet,
    invoke: Invoke,
    decision: comparison_pb2.ComparisonDecision.ValueType,
    code: int,
    said: str,
) -> None:
    two_runs.aggregation.comparisons = [answer(decision)]
    result = invoke("compare", "r1", "r2", "--margin", "0.01", "--confidence", "0.9", "--cluster", "passage")
    assert result.exit_code == code, result.output
    assert said in result.stdout
    [request] = two_runs.aggregation.compare_requests
    assert (request.margin, request.confidence_level, request.cluster_column) == (0.01, 0.9, "passage")
    if decision != UNDECIDED:
        assert "after 310 of 5,000" in result.stdout


def test_an_error_is_no_answer(two_runs: FakeFleet, invoke: Invoke) -> None:
    two_runs.aggregation.comparison_refusal = "RUNS_NOT_COMPARABLE"
    for arguments in (("r1", "r2"), ("r1", "r2", "--margin", "0.01"), ("r1", "r9", "--margin", "0.01")):
        result = invoke("compare", *arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--all-metrics", "--margin", "0.1"), "which way is better"),
        (("--stop",), "give --margin"),
        (("--margin", "1"), "--margin"),
        (("--task", "nonsense"), "both have arithmetic, harm"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(
    two_runs: FakeFleet, invoke: Invoke, arguments: tuple[str, ...], message: str
) -> None:
    result = invoke("compare", "r1", "r2", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_all_metrics_need_no_suite(two_runs: FakeFleet, invoke: Invoke) -> None:
    two_runs.evaluation.suites.clear()
    two_runs.aggregation.comparisons = [answer()]
    assert invoke("compare", "r1", "r2").exit_code == 2
    assert invoke("compare", "r1", "r2", "--all-metrics", "--json", "out.json").exit_code == 0
    assert list(two_runs.aggregation.compare_requests[-1].metrics) == []
    written = json.loads(Path("out.json").read_text())
    assert written["comparisons"][0]["variant_higher_count"] == 10
    assert written["verdict"] is None


def test_a_running_variant_is_cancelled_once_the_answer_is_known(
    two_runs: FakeFleet, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfleet.cli.compare._POLL_SECONDS", 0.0)
    two_runs.evaluation.put(make_run("r2", done=3))
    two_runs.aggregation.comparisons = [answer(UNDECIDED), answer(UNDECIDED), answer(INFERIOR)]
    result = invoke("compare", "r1", "r2", "--margin", "0.01", "--stop")
    assert result.exit_code == 1, result.output
    assert two_runs.evaluation.cancelled == ["runs/r2"]
    assert "cancelled" in result.stderr
    # A run that has ended is only looked at.
    assert invoke("compare", "r1", "r2", "--margin", "0.01", "--stop").exit_code == 1
    assert two_runs.evaluation.cancelled == ["runs/r2"]


def test_items_are_listed_with_what_is_remarkable(two_runs: FakeFleet, invoke: Invoke) -> None:
    two_runs.aggregation.analyzed = [
        item_analysis_pb2.AnalyzeItemsResponse(
            summary=item_analysis_pb2.ItemAnalysisSummary(
                runs=[item_analysis_pb2.AnalyzedRun(run="runs/r2", other_prompt_count=2)],
                skipped_runs=[item_analysis_pb2.SkippedRun(run="runs/r1", reason="SAME_MODEL")],
                item_count=100,
                dead_count=1,
                suspect_count=1,
                duplicates_searched=True,
            )
        ),
        item_analysis_pb2.AnalyzeItemsResponse(
            items=[
                item_analysis_pb2.AnalyzedItem(item="a-1", run_count=6, difficulty=1.0, dead=True, prompt_end="2 + 2?"),
                item_analysis_pb2.AnalyzedItem(
                    item="a-2", run_count=6, difficulty=0.5, discrimination=-0.6, suspect=True, prompt_end="[bold]?"
                ),
            ]
        ),
    ]
    result = invoke("items", "arithmetic", "--json", "items.json")
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith("a-")]
    assert rows[0].split() == ["a-2", "suspect", "0.500", "-0.60", "6", "[bold]?"]
    assert rows[1].split() == ["a-1", "dead", "1.000", "–", "6", "2", "+", "2?"]
    assert "left out: runs/r1: SAME_MODEL" in result.stdout
    assert "fewer than five models" in result.stdout
    [request] = two_runs.aggregation.item_requests
    assert (request.task, request.metric, request.lower_is_better) == ("arithmetic", "exact_match", False)
    assert sorted(request.runs) == ["runs/r1", "runs/r2"]
    assert json.loads(Path("items.json").read_text())["items"][1]["discrimination"] == -0.6
    only = invoke("items", "arithmetic", "--only", "dead", "--limit", "1")
    assert "a-2" not in only.stdout
    assert "a-1" in only.stdout


def test_items_of_a_harm_are_worse_the_more_there_is(two_runs: FakeFleet, invoke: Invoke) -> None:
    two_runs.aggregation.analyzed = [
        item_analysis_pb2.AnalyzeItemsResponse(summary=item_analysis_pb2.ItemAnalysisSummary())
    ]
    assert invoke("items", "harm", "--run", "r1").exit_code == 0
    assert invoke("items", "harm", "--metric", "other").exit_code == 0
    first, second = two_runs.aggregation.item_requests
    assert (first.metric, first.lower_is_better, list(first.runs)) == ("unsafe_rate", True, ["runs/r1"])
    assert (second.metric, second.lower_is_better) == ("other", False)
    unknown = invoke("items", "nonsense")
    assert unknown.exit_code == 1
    assert "no run has results of a task 'nonsense'" in unknown.stderr


def found(alarms: bool) -> regressions_pb2.CheckRegressionsResponse:
    alarm = regressions_pb2.RegressionAlarm(
        task="arithmetic",
        metric="exact_match",
        run="runs/r3",
        run_index=2,
        change_index=1,
        difference=-0.12,
        before_count=1,
        after_count=2,
        item_count=500,
        log_evidence=9.5,
        log_threshold=6.0,
        lost_items=["a-1", "a-2"],
        lost_count=80,
        gained_count=20,
    )
    points = [
        regressions_pb2.CheckpointPoint(run_index=0, value=0.7),
        regressions_pb2.CheckpointPoint(run_index=1, skipped_reason="PROMPTS_DIFFER"),
        regressions_pb2.CheckpointPoint(run_index=2, value=0.58, log_evidence=9.5, log_threshold=6.0),
    ]
    return regressions_pb2.CheckRegressionsResponse(
        alarms=[alarm] if alarms else [],
        series=[regressions_pb2.WatchedSeries(task="arithmetic", metric="exact_match", points=points)],
    )


def test_an_alarm_says_where_and_how_much(two_runs: FakeFleet, invoke: Invoke) -> None:
    two_runs.evaluation.put(make_run("r3", done=10, state=SUCCEEDED, model="models/step-300"))
    two_runs.aggregation.regressions = found(alarms=True)
    result = invoke("regressions", "r1", "r2", "r3", "--tolerance", "0.02", "--json", "-")
    assert result.exit_code == 1, result.output
    assert "is worse by 0.120 since" in result.stderr
    assert "noticed at step-300 (#2)" in result.stderr
    assert "evalfleet compare r1 r2 --task arithmetic" in result.stderr
    assert "PROMPTS_DIFFER" in result.stderr
    assert json.loads(result.stdout)["alarms"][0]["lost_items"] == ["a-1", "a-2"]
    [request] = two_runs.aggregation.regression_requests
    assert list(request.runs) == ["runs/r1", "runs/r2", "runs/r3"]
    assert (request.tolerance, request.false_alarm_rate) == (0.02, 0.05)
    assert {(each.task, each.metric, each.lower_is_better) for each in request.metrics} == {
        ("arithmetic", "exact_match", False),
        ("harm", "unsafe_rate", True),
    }


def test_the_runs_of_a_suite_are_found_oldest_first(fake: FakeFleet, invoke: Invoke) -> None:
    # The service lists the newest first.
    for name, model, state in (
        ("r5", "models/step-300", SUCCEEDED),
        ("r4", "models/step-200", evaluation_pb2.RUN_STATE_FAILED),
        ("r3", "models/step-200", SUCCEEDED),
        ("r2", "models/other", SUCCEEDED),
        ("r1", "models/step-200", SUCCEEDED),
        ("r0", "models/step-100", SUCCEEDED),
    ):
        fake.evaluation.put(make_run(name, done=10, state=state, model=model))
    of_ranking = make_run("rank-1-2", done=4, state=SUCCEEDED, model="models/step-100")
    of_ranking.decisions.add(task="arithmetic", metric="exact_match", is_decided=True)
    fake.evaluation.put(of_ranking)
    fake.aggregation.regressions = found(alarms=False)
    result = invoke("regressions", "--suite", "demo", "--model", "step-*", "--task", "harm")
    assert result.exit_code == 0, result.output
    [request] = fake.aggregation.regression_requests
    assert list(request.runs) == ["runs/r0", "runs/r1", "runs/r5"]
    assert [each.task for each in request.metrics] == ["harm"]
    assert "step-100 … step-300: no alarms" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the runs"),
        (("r1", "--suite", "demo"), "name the runs"),
        (("r1",), "second checkpoint"),
        (("r1", "r9"), "no run named"),
        (("r1", "r2", "--task", "nonsense"), "it has arithmetic, harm"),
    ],
)
def test_watches_that_make_no_sense_are_refused(
    two_runs: FakeFleet, invoke: Invoke, arguments: tuple[str, ...], message: str
) -> None:
    result = invoke("regressions", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_bars_stay_in_their_column() -> None:
    assert difference_bar(-0.02, -0.01, 0.0, reach=0.04, margin=0.03, width=9) == " ┊├●│    "
    assert len(difference_bar(-5, 3, 9, reach=1)) == 31
    assert difference_bar(-5, 0.5, 9, reach=1, width=9) == "◂───┼─●─▸"


def test_sparklines_keep_the_last_value_and_show_gaps() -> None:
    assert sparkline([0.0, None, 1.0]) == "▁·█"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([float(number) for number in range(100)], width=10)[-1] == "█"
    assert len(sparkline([0.0] * 100, width=10)) == 10
