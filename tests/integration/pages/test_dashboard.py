"""The dashboard of a real fleet in a real browser: one signs in, clicks through a run, and reads the API's numbers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from evalfleet.fleet import Fleet
from evalfleet.names import short_name
from evalfleet.results import RunSnapshot
from playwright.sync_api import Page, expect

from services.dashboard.views.costs import NOBODY, Spent
from services.standalone.testing import RunningFleet
from tests.integration.pages.browsing import RUN, Look, keep_screenshot, opened

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
TOKEN = "the-token-of-this-test"
SECOND_RUN = "second-run-for-the-dashboard"


@pytest.fixture(scope="module")
def address(fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard of the fleet, started as people start it."""
    ready = tmp_path_factory.mktemp("dashboard") / "ready"
    command = [sys.executable, "-m", "evalfleet.cli.main", f"--state-dir={fleet.state_dir}", "dashboard", "--port=0"]
    environment = {**os.environ, "EVALFLEET_DASHBOARD_TOKEN": TOKEN}
    with subprocess.Popen(
        [*command, f"--ready-file={ready}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "The dashboard is at" in first, first + process.stdout.read()
        assert process.stdout.readline().startswith("Ctrl-C")
        assert TOKEN not in first
        yield first.split()[-1].rstrip("/")
        process.terminate()
        assert process.wait(timeout=60) in (0, -15)


@pytest.fixture(scope="module")
def second(client: Fleet, snapshot: RunSnapshot) -> RunSnapshot:
    """The same items once more, without a gate: all that is left are the items that the first did not ask."""
    run = client.runs.start(model=snapshot.run.model, suite="demo", item_limit=12, run_id=SECOND_RUN)
    for _ in client.runs.watch(run.name):
        pass
    return client.runs.snapshot(run.name)


def test_one_signs_in_and_clicks_through_a_run(
    look: Look, address: str, snapshot: RunSnapshot, second: RunSnapshot
) -> None:
    with opened(look, "dashboard-run") as page:
        page.goto(f"{address}/")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
        keep_screenshot(page, f"dashboard-runs-{look.name}")
        for run in (snapshot.run, second.run):
            row = page.locator(f"tr[data-run='{run.name}']")
            assert row.get_attribute("data-state") == "succeeded"
            assert row.get_attribute("data-items") == str(sum(each.done_count for each in run.tasks))
        page.get_by_role("link", name=RUN, exact=True).click()
        expect(page.get_by_role("heading", name=f"Run {RUN}")).to_be_visible()
        _check_estimates(page, snapshot)
        item = page.locator(".item:visible").first
        item.locator("summary").click()
        expect(item.locator("pre.answer")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"


def _check_estimates(page: Page, snapshot: RunSnapshot) -> None:
    rows = page.evaluate("[...document.querySelectorAll('#estimates tr[data-run]')].map(row => ({...row.dataset}))")
    shown = {(each["task"], each["metric"], each["group"]): float(each["value"]) for each in rows if each["value"]}
    known = {(each.task, each.metric, each.group): each for each in snapshot.estimates if each.value is not None}
    assert set(known) <= set(shown)
    for key, estimate in known.items():
        assert shown[key] == (estimate.value if estimate.task_value is None else estimate.task_value), key


def test_every_other_page_shows_the_apis_numbers(
    look: Look, address: str, client: Fleet, snapshot: RunSnapshot, second: RunSnapshot
) -> None:
    with opened(look, "dashboard-costs") as page:
        page.goto(f"{address}/sign-in?token={TOKEN}")
        page.get_by_role("link", name="Leaderboard").click()
        _check_leaderboard(page, client, snapshot.run.suite)
        keep_screenshot(page, f"dashboard-leaderboard-{look.name}")
        page.get_by_role("link", name="Side by side").click()
        page.get_by_label("Base").select_option(RUN)
        page.get_by_label("Variant").select_option(SECOND_RUN)
        page.get_by_role("button", name="Show").click()
        told = page.locator("[data-total]")
        # Greedy answers of one checkpoint: nothing differs.
        assert told.get_attribute("data-different") == "0"
        assert int(told.get_attribute("data-total") or 0) > 0
        keep_screenshot(page, f"dashboard-outputs-{look.name}")
        page.get_by_role("link", name="Guards").click()
        names = {each.get_attribute("data-guard") for each in page.locator("[data-guard]").all()}
        assert names == {each.name for each in client.safety.guards()}
        keep_screenshot(page, f"dashboard-guards-{look.name}")
        page.get_by_role("link", name="Costs").click()
        _check_costs(page, client)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"


def _rows(page: Page, selector: str) -> list[dict[str, str]]:
    """Return what the rows of a table say of themselves."""
    found: list[dict[str, str]] = page.evaluate(
        "selector => [...document.querySelectorAll(selector)].map(row => ({...row.dataset}))", selector
    )
    return found


def _check_leaderboard(page: Page, client: Fleet, suite: str) -> None:
    """Every model of the suite is there once, and each of its numbers is that of its largest run."""
    page.get_by_label("Suite").select_option(short_name(suite))
    page.get_by_role("button", name="Show").click()
    runs = [each for each in client.runs.list(limit=500) if each.suite == suite and each.state == "succeeded"]
    runs = [each for each in runs if each.suite_digest == runs[0].suite_digest and not each.is_of_ranking]
    shown = {each["run"]: each["model"] for each in _rows(page, "#models tr[data-run]")}
    assert sorted(shown.values()) == sorted({(each.model, each.model_digest): each.model for each in runs}.values())
    for name, model in shown.items():
        known = client.runs.snapshot(name)
        counts = [sum(task.done_count for task in each.tasks) for each in runs if each.model == model]
        assert sum(task.done_count for task in known.run.tasks) == max(counts)
        cells = _rows(page, f"#models tr[data-run='{name}'] [data-value]")
        primary = {each.name: each.primary_metric for each in client.suites.get(suite).tasks}
        assert {each["task"]: float(each["value"]) for each in cells} == {
            each.task: each.value if each.task_value is None else each.task_value
            for each in known.estimates
            if each.metric == primary[each.task] and not each.group and each.value is not None
        }


def _check_costs(page: Page, client: Fleet) -> None:
    """All sums are those of the runs' totals: by day and caller, together, and by model."""
    days: dict[tuple[str, ...], Spent] = {}
    models: dict[tuple[str, ...], Spent] = {}
    for run in client.runs.list(limit=500):
        spent = Spent(runs=1)
        for each in client.runs.snapshot(run.name).totals:
            tokens = each.prompt_tokens + each.completion_tokens
            spent += Spent(0, each.item_count, tokens, each.computed_tokens, each.engine_seconds, each.cost_usd)
        assert run.create_time is not None
        day = (f"{run.create_time:%Y-%m-%d}", run.caller or NOBODY)
        days[day] = days.get(day, Spent()) + spent
        model = (short_name(run.model),)
        models[model] = models.get(model, Spent()) + spent
    together: dict[tuple[str, ...], Spent] = {(): sum(days.values(), Spent())}
    tables: list[tuple[str, tuple[str, ...], dict[tuple[str, ...], Spent]]] = [
        ("#costs tr[data-day]", ("day", "caller"), days),
        ("#costs tr.strong", (), together),
        ("#models tr[data-model]", ("model",), models),
    ]
    for selector, keys, known in tables:
        shown = {tuple(each[key] for key in keys): each for each in _rows(page, selector)}
        assert shown.keys() == known.keys(), selector
        for key, spent in known.items():
            told = {name: float(shown[key][_camel(name)]) for name in asdict(spent)}
            assert told == pytest.approx(asdict(spent)), (selector, key)
    assert together[()].items > 0
    assert together[()].cost_usd > 0


def _camel(name: str) -> str:
    """Return the name of a row's number as a browser's script has it."""
    first, *others = name.split("_")
    return first + "".join(each.capitalize() for each in others)
