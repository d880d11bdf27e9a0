"""The dashboard of a real fleet in a real browser: one signs in, clicks through a run, and reads the API's numbers."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import RunSnapshot
from playwright.sync_api import Page, expect

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
        cells = page.locator("[data-task='demo_arithmetic'][data-value]")
        newest = next(
            each for each in client.runs.list() if each.suite == snapshot.run.suite and each.state == "succeeded"
        )
        [known] = [
            each.value if each.task_value is None else each.task_value
            for each in client.runs.snapshot(newest.name).estimates
            if (each.task, each.metric, each.group) == ("demo_arithmetic", "correct", "")
        ]
        assert known in [float(each.get_attribute("data-value") or "nan") for each in cells.all()]
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
        expect(page.locator("tr.strong")).to_contain_text("together")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"
