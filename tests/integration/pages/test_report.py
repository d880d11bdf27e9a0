"""A report of a real run in a real browser: its numbers are the API's, its items can be found, also on a phone.

Also what is exported of that run, since a run is what takes time. Screenshots stay in build/screenshots.
"""

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import RunSnapshot
from playwright.sync_api import Page, expect

from services.standalone.testing import RunningFleet
from tests.integration.pages.browsing import RUN, Look, opened

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def report(fleet: RunningFleet, snapshot: RunSnapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, written by the command."""
    folder = tmp_path_factory.mktemp("report")
    _evalfleet(fleet, "report", RUN, "--items", "30", "--out", str(folder / "report.html"))
    return folder / "report.html"


@pytest.fixture
def page(look: Look, report: Path) -> Iterator[Page]:
    """The report in a browser without a network, in one of the sizes."""
    with opened(look, "report", is_offline=True) as shown:
        shown.goto(report.as_uri())
        yield shown


def test_the_report_shows_the_apis_numbers_and_its_items_can_be_read(page: Page, snapshot: RunSnapshot) -> None:
    _check_numbers(page, snapshot)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"
    _find_and_open_an_item(page, snapshot)
    _walk_with_the_keyboard(page)


def _check_numbers(page: Page, snapshot: RunSnapshot) -> None:
    rows = page.evaluate("[...document.querySelectorAll('#estimates tr[data-run]')].map(row => ({...row.dataset}))")
    shown = {(each["task"], each["metric"], each["group"]): each for each in rows}
    known = {(each.task, each.metric, each.group): each for each in snapshot.estimates if each.value is not None}
    assert set(known) <= set(shown)
    for key, estimate in known.items():
        value = estimate.value if estimate.task_value is None else estimate.task_value
        assert float(shown[key]["value"]) == value, key
    [decision] = [each for each in snapshot.run.decisions if each.questions]
    answer = page.locator(f"#decisions li[data-task={decision.task}]").get_attribute("data-answer")
    assert answer == decision.questions[0].answer.value
    computed = page.locator("#cost dd").first.get_attribute("data-value")
    assert computed is not None
    assert float(computed) == sum(each.computed_tokens for each in snapshot.totals)


def _find_and_open_an_item(page: Page, snapshot: RunSnapshot) -> None:
    total = sum(each.item_count for each in snapshot.totals)
    count = page.locator("#item-count")
    embedded = min(30, total)
    expect(count).to_have_text(f"All {embedded} items in this file are listed.")
    page.get_by_label("Task").select_option("demo_arithmetic")
    expect(count).to_have_text(re.compile(r"^\d+ of the "))
    visible = page.locator(".item:visible")
    shown = visible.count()
    assert 0 < shown < embedded
    first = visible.first
    item = first.get_attribute("data-item")
    assert item is not None
    first.locator("summary").click()
    expect(first.locator("pre.answer")).to_be_visible()
    expect(first.get_by_text("Target", exact=True)).to_be_visible()
    page.get_by_label("Search").fill("nothing says this")
    expect(count).to_have_text(f"0 of the {embedded} items in this file are listed.")
    page.get_by_label("Search").fill("")
    expect(visible).to_have_count(shown)


def _walk_with_the_keyboard(page: Page) -> None:
    page.locator("body").press("Escape")
    page.locator(".item:visible summary").first.focus()
    page.keyboard.press("j")
    focused = "document.activeElement.closest('.item')?.dataset.item"
    second = page.locator(".item:visible").nth(1).get_attribute("data-item")
    assert page.evaluate(focused) == second
    page.keyboard.press("Enter")
    expect(page.locator(".item:visible").nth(1).locator("pre.answer")).to_be_visible()
    page.keyboard.press("k")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "search"


def test_what_is_exported_of_a_real_run_is_what_the_ledger_has(
    fleet: RunningFleet, client: Fleet, snapshot: RunSnapshot, tmp_path: Path
) -> None:
    _evalfleet(fleet, "export", RUN, "--format", "csv", "--out", str(tmp_path))
    with (tmp_path / f"{RUN}_items.csv").open(encoding="utf-8", newline="") as file:
        rows = {(each["task"], each["item"]): each for each in csv.DictReader(file)}
    results = list(client.runs.results(RUN))
    assert len(rows) == len(results) == sum(each.item_count for each in snapshot.totals)
    for each in results:
        assert rows[each.task, each.item]["output"] == each.output
    arithmetic = [each for each in results if each.task == "demo_arithmetic"]
    assert all(each.targets for each in arithmetic)
    assert all(each.targets for each in results if each.task == "demo_mcq")


def _evalfleet(fleet: RunningFleet, *arguments: str) -> None:
    command = [sys.executable, "-m", "evalfleet.cli.main", f"--state-dir={fleet.state_dir}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
