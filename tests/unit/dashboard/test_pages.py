"""The pages show the API's numbers, and hostile texts as texts."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.fleet import Fleet
from starlette.testclient import TestClient

from services.dashboard.application import make_application
from services.dashboard.views.leaderboard import standing_of
from tests.fakes.checkpoint_runs import HOSTILE, fill
from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet
from tests.unit.dashboard.conftest import TOKEN


def attributes(page: str, name: str) -> list[str]:
    return re.findall(rf'{name}="([^"]*)"', page)


def test_runs_are_listed_with_what_they_came_to(browser: TestClient, fleet: Fleet) -> None:
    page = browser.get("/").text
    assert attributes(page, "data-run") == [each.name for each in fleet.runs.list()]
    assert set(attributes(page, "data-state")) == {"succeeded"}
    assert "data-live" not in page.split("<script>")[0]


def test_a_run_that_goes_on_is_refreshed(fleet: Fleet) -> None:
    with FakeFleet() as fake, Fleet.connect(fake.targets) as connected:
        fill(fake)
        fake.evaluation.put(make_run("now", state=evaluation_pb2.RUN_STATE_RUNNING))
        with TestClient(make_application(connected, TOKEN), base_url="http://localhost") as client:
            client.headers["authorization"] = f"Bearer {TOKEN}"
            page = client.get("/").text
    assert 'data-live="3"' in page
    assert page.index('data-run="runs/now"') < page.index('data-run="runs/step-100"')
    assert "<progress" in page


def test_a_run_has_the_sections_of_its_report(browser: TestClient, fleet: Fleet) -> None:
    page = browser.get("/runs/step-1000").text
    [estimate] = [
        each
        for each in fleet.runs.snapshot("step-1000").estimates
        if (each.task, each.metric) == ("gsm8k", "exact_match")
    ]
    assert f"{estimate.value:.3f}" in page
    for anchor in ("decisions", "estimates", "safety", "cost", "failures", "items"):
        assert f'id="{anchor}"' in page, anchor


def test_the_leaderboard_has_every_models_values(browser: TestClient, fleet: Fleet) -> None:
    page = browser.get("/leaderboard?suite=release").text
    shown = {(task, float(value)) for value, task in re.findall(r'data-value="([^"]+)" data-task="([^"]+)"', page)}
    expected = set()
    for run in fleet.runs.list():
        for each in fleet.runs.snapshot(run.name).estimates:
            if not each.group and (each.task, each.metric) in {("gsm8k", "exact_match"), ("harmbench", "unsafe")}:
                expected.add((each.task, each.value))
    assert shown == expected
    assert 'class="trends"' in page


def test_outputs_stand_side_by_side(browser: TestClient) -> None:
    page = browser.get("/outputs?base=step-100&variant=step-1000&task=gsm8k").text
    assert attributes(page, "data-item")
    assert {"true", "false"} >= set(attributes(page, "data-differs"))
    assert int(attributes(page, "data-total")[0]) >= len(attributes(page, "data-item"))
    shown = attributes(page, "data-differs")
    assert shown == sorted(shown, reverse=True)


def test_hostile_outputs_stay_texts(browser: TestClient) -> None:
    for path in ("/runs/step-1000", "/outputs?base=step-100&variant=step-1000&task=harmbench"):
        page = browser.get(path).text
        assert "<script>document" not in page
        assert "onerror=&quot;" in page or HOSTILE[:10] not in page


def test_costs_add_up_to_those_of_the_runs(browser: TestClient, fleet: Fleet) -> None:
    page = browser.get("/costs").text
    total = sum(each.cost_usd for run in fleet.runs.list() for each in fleet.runs.snapshot(run.name).totals)
    # By day and caller, together, and by model.
    assert sum(map(float, attributes(page, "data-cost-usd"))) == pytest.approx(3 * total)


def test_guards_are_listed_and_changed_records_not_believed(browser: TestClient, tmp_path: Path) -> None:
    (tmp_path / "changed.json").write_text(json.dumps({"format": "evalfleet/guard-quality/1", "digest": "0"}))
    page = browser.get("/guards").text
    assert "changed.json was changed" in page
    assert attributes(page, "data-guard")


def test_what_the_fleet_refuses_is_shown(browser: TestClient) -> None:
    for path, status in (("/runs/nothing", 404), ("/outputs?base=nothing&variant=step-100", 404), ("/nowhere", 404)):
        answer = browser.get(path)
        assert answer.status_code == status
        assert "<h1>" in answer.text


def test_a_fleet_that_is_away_is_told() -> None:
    targets = dict.fromkeys(("evaluation", "aggregation", "generation", "safety", "scoring"), "127.0.0.1:1")
    with (
        Fleet.connect(targets) as away,
        TestClient(make_application(away, TOKEN), base_url="http://localhost", raise_server_exceptions=False) as client,
    ):
        answer = client.get("/", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 503


def test_the_fleet_is_asked_once_for_what_has_ended(browser: TestClient, checkpoints: FakeFleet) -> None:
    browser.get("/costs")
    asked = len(checkpoints.aggregation.estimate_requests)
    for path in ("/costs", "/leaderboard", "/guards"):
        assert browser.get(path).status_code == 200
    assert len(checkpoints.aggregation.estimate_requests) == asked


def test_a_live_run_is_read_without_items_and_figures_of_sets() -> None:
    with FakeFleet() as fake, Fleet.connect(fake.targets) as connected:
        fill(fake)
        fake.evaluation.runs["runs/step-1000"].state = evaluation_pb2.RUN_STATE_RUNNING
        with TestClient(make_application(connected, TOKEN), base_url="http://localhost") as client:
            page = client.get("/runs/step-1000", headers={"authorization": f"Bearer {TOKEN}"}).text
        assert 'data-live="3"' in page
        assert "No items are embedded" in page
        assert not any(each.with_set_measures for each in fake.aggregation.estimate_requests)


def test_a_ranking_and_another_version_of_the_suite_have_no_place_on_the_board(fleet: Fleet) -> None:
    runs = list(reversed(fleet.runs.list()))
    assert [each.model for each in standing_of(runs, "release").runs] == sorted(
        (each.model for each in runs), key=lambda name: int(name.rsplit("-", 1)[1])
    )
    changed = replace(runs[0], suite_digest="changed")
    assert standing_of([changed, *runs[1:]], "release").runs == (changed,)
    small = replace(runs[0], name="runs/small", tasks=tuple(replace(each, scored_count=1) for each in runs[0].tasks))
    assert small not in standing_of([small, *runs], "release").runs
