"""`evalfleet rank`, `rankings` and `compare` of models: what they ask, show, and how they end."""

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from click.testing import Result
from evalfleet.aggregation.v1 import ranking_pb2 as judged_pb2
from evalfleet.cli.plots import interval_bar
from evalfleet.evaluation.v1 import evaluation_pb2, ranking_pb2

from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet
from tests.fakes.rankings import make_ranking
from tests.unit.cli.test_comparisons import INFERIOR, NOT_INFERIOR, UNDECIDED, answer

Invoke = Callable[..., Result]
RANK = ("rank", "step-100", "models/step-200", "--suite", "demo", "--task", "arithmetic")


def test_it_asks_follows_and_shows_the_best_first(fake: FakeFleet, invoke: Invoke) -> None:
    fake.rankings.script = [make_ranking(is_done=False), grpc.StatusCode.UNAVAILABLE, make_ranking()]
    result = invoke(*RANK, "--confidence", "0.9", "--budget", "900items", "--limit", "500", "--concurrency", "8")
    assert result.exit_code == 0, result.output
    [request] = fake.rankings.created
    assert (request.suite, request.task, list(request.models)) == (
        "suites/demo",
        "arithmetic",
        ["models/step-100", "models/step-200"],
    )
    assert (request.WhichOneof("question"), request.top, request.confidence) == ("top", 1, 0.9)
    assert (request.budget.items, request.item_limit, request.concurrency) == (900, 500, 8)
    assert "models/step-100 is out after 96 of 500 items" in result.output
    assert result.output.count("is out after") == 1
    table = result.output[result.output.index("standing") :]
    assert table.index("step-200") < table.index("step-100")
    assert "0.650 … 0.850" in table
    assert "asked: 200 of 1,000 items of full runs, 80.0% saved" in table
    assert "the best 1 of 2: step-200" in table


def test_a_tie_is_called_one_within_the_tolerance(fake: FakeFleet, invoke: Invoke) -> None:
    fake.rankings.script = [make_ranking(tolerance=0.01)]
    result = invoke(*RANK, "--tolerance", "0.01")
    assert result.exit_code == 0, result.output
    [request] = fake.rankings.created
    assert (request.top, request.tolerance) == (1, 0.01)
    assert "models/step-100 is tied after 96 of 500 items" in result.output
    assert "the best 1 of 2 within ±0.01: step-200" in result.output
    assert "tied with it: step-100; better by no more than 0.01, if at all" in result.output


def test_without_a_tie_the_best_are_the_best(fake: FakeFleet, invoke: Invoke) -> None:
    ranking = make_ranking()
    ranking.tolerance = 0.01
    fake.rankings.script = [ranking]
    result = invoke(*RANK, "--tolerance", "0.01")
    assert "the best 1 of 2: step-200" in result.output
    assert "tied" not in result.output


def test_json_has_all_of_it(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    fake.rankings.script = [make_ranking()]
    assert invoke(*RANK, "--json", "found.json").exit_code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["is_decided"], found["top"], found["compared_count"]) == (True, 1, 96)
    assert found["contenders"][0] == {
        "model": "models/step-100",
        "run": "runs/r1",
        "standing": "out",
        "decided_after": 96,
        "value": 0.25,
        "interval": [0.15, 0.35],
        "difference": None,
        "evaluated_count": 96,
    }


def test_what_is_not_known_is_not_called_known(fake: FakeFleet, invoke: Invoke) -> None:
    ranking = make_ranking(is_done=False)
    ranking.state = evaluation_pb2.RUN_STATE_SUCCEEDED
    ranking.stop_reason = evaluation_pb2.STOP_REASON_BUDGET_EXHAUSTED
    fake.rankings.script = [ranking]
    result = invoke(*RANK)
    assert result.exit_code == 2
    assert "undecided: the budget is used up" in result.output
    assert "the best" not in result.output.split("undecided")[0].split("standing")[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("rank", "a", "b"),
        ("rank", "a", "b", "--task", "arithmetic", "--top", "2"),
        ("rank", "a", "b", "--task", "arithmetic", "--tolerance", "1"),
        ("rankings", "--cancel"),
        ("compare", "models/a", "models/b", "--task", "arithmetic"),
        ("compare", "models/a", "models/b", "--margin", "0.01"),
        ("compare", "models/a", "models/b", "--margin", "0.01", "--task", "x", "--task", "y"),
        ("compare", "models/a", "models/b", "--margin", "0.01", "--task", "x", "--stop"),
        ("compare", "models/a", "r2", "--margin", "0.01", "--task", "x"),
        ("compare", "r1", "r2", "--margin", "0.01", "--budget", "5items"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_asked(
    fake: FakeFleet, invoke: Invoke, arguments: tuple[str, ...]
) -> None:
    assert invoke(*arguments).exit_code == 2
    assert fake.rankings.created == []


def test_an_unknown_suite_is_an_error_and_nothing_is_started(fake: FakeFleet, invoke: Invoke) -> None:
    assert invoke("rank", "a", "b", "--task", "nothing").exit_code == 2
    assert fake.rankings.created == []


def test_rankings_are_listed_followed_and_cancelled(fake: FakeFleet, invoke: Invoke) -> None:
    fake.rankings.script = [make_ranking()]
    listing = invoke("rankings")
    assert listing.exit_code == 0
    assert "rank-1" in listing.output
    assert "step-200" in listing.output
    assert invoke("rankings", "rank-1").exit_code == 0
    assert invoke("rankings", "rank-9").exit_code == 2
    assert invoke(*RANK, "--detach").output.startswith("rankings/rank-1 started")
    cancelled = invoke("rankings", "rank-1", "--cancel")
    assert cancelled.exit_code == 0
    assert fake.rankings.cancelled == ["rankings/rank-1"]
    # Whoever did not ask for that did not get an answer.
    assert invoke("rankings", "rank-1").exit_code == 2


@pytest.mark.parametrize(
    ("standing", "code"), [(judged_pb2.STANDING_NOT_INFERIOR, 0), (judged_pb2.STANDING_INFERIOR, 1)]
)
def test_a_ranking_with_a_margin_ends_as_its_comparison_does(
    fake: FakeFleet, invoke: Invoke, standing: judged_pb2.Standing.ValueType, code: int
) -> None:
    ranking = make_ranking(margin=0.01)
    ranking.contenders[1].standing = standing
    fake.rankings.script = [ranking]
    assert invoke("rankings", "rank-1").exit_code == code


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (evaluation_pb2.STOP_REASON_CALLER_BUDGET_EXHAUSTED, "undecided: the caller's budget of today is used up"),
        (evaluation_pb2.STOP_REASON_COMPLETE, "undecided: all items are asked"),
    ],
)
def test_a_ranking_that_is_open_says_why(
    fake: FakeFleet, invoke: Invoke, reason: evaluation_pb2.StopReason.ValueType, said: str
) -> None:
    ranking = make_ranking(is_done=False)
    ranking.state = evaluation_pb2.RUN_STATE_SUCCEEDED
    ranking.stop_reason = reason
    fake.rankings.script = [ranking]
    result = invoke("rankings", "rank-1")
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(("decision", "code"), [(NOT_INFERIOR, 0), (INFERIOR, 1), (UNDECIDED, 2)])
def test_compare_asks_two_models_until_the_answer_is_known(
    fake: FakeFleet, invoke: Invoke, decision: int, code: int
) -> None:
    fake.rankings.script = [make_ranking(margin=0.01, is_done=False), make_ranking(margin=0.01)]
    for name in ("r1", "r2"):
        fake.evaluation.put(make_run(name, done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))
    fake.aggregation.comparisons = [answer(decision)]  # type: ignore[arg-type]
    result = invoke(
        "compare", "models/step-100", "models/step-200", "--margin", "0.01", "--suite", "demo", "--task", "arithmetic"
    )
    assert result.exit_code == code, result.output
    [request] = fake.rankings.created
    assert (request.WhichOneof("question"), request.margin, request.confidence) == ("margin", 0.01, 0.95)
    [compared] = fake.aggregation.compare_requests
    assert (compared.base_run, compared.variant_run) == ("runs/r1", "runs/r2")
    assert "asked: 200 of 1,000 items of full runs, 80.0% saved" in result.output


def test_a_comparison_that_failed_is_no_verdict(fake: FakeFleet, invoke: Invoke) -> None:
    ranking = make_ranking(margin=0.01, is_done=False)
    ranking.state = evaluation_pb2.RUN_STATE_FAILED
    ranking.failure.message = "the model is gone"
    fake.rankings.script = [ranking]
    result = invoke("compare", "models/a", "models/b", "--margin", "0.01", "--suite", "demo")
    assert result.exit_code == 2
    assert "the model is gone" in result.output
    assert fake.aggregation.compare_requests == []


def test_contenders_are_in_order_of_what_is_known() -> None:
    from evalfleet.ranking_messages import ranking as translated

    ranking = make_ranking()
    late = ranking_pb2.Contender()
    late.CopyFrom(ranking.contenders[0])
    late.model, late.decided_after, late.value = "models/late", 300, 0.1
    ranking.contenders.append(late)
    assert [each.model for each in translated(ranking).in_order] == [
        "models/step-200",
        "models/late",
        "models/step-100",
    ]
    tied = ranking_pb2.Contender()
    tied.CopyFrom(ranking.contenders[1])
    tied.model, tied.standing, tied.value = "models/tied", judged_pb2.STANDING_TIED, 0.9
    ranking.contenders.append(tied)
    assert [each.model for each in translated(ranking).in_order][:2] == ["models/step-200", "models/tied"]


def test_intervals_are_drawn_to_scale() -> None:
    assert interval_bar(0.25, 0.5, 0.75, least=0.0, most=1.0, width=9) == "  ├─●─┤  "
    assert interval_bar(0.5, 0.5, 0.5, least=0.5, most=0.5, width=5) == "●    "
