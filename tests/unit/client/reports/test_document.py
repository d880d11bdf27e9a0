"""The report as a page: what it says, that it needs nothing else, and that nothing which a model wrote is obeyed."""

import base64
import hashlib
import re
from dataclasses import replace

import pytest
from evalfleet.reports import ReportFacts, report_page
from evalfleet.results import Interval

from tests.fakes.checkpoint_runs import HOSTILE, estimates
from tests.unit.client.reports.page_reading import Page


@pytest.fixture(scope="module")
def text(facts: ReportFacts) -> str:
    return report_page(facts)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_decisions_come_first_and_in_words(page: Page) -> None:
    sections = [each.attributes["id"] for each in page.find("section")]
    assert sections == ["decisions", "estimates", "safety", "trends", "cost", "failures", "items"]
    assert [each.attributes["href"] for each in page.find("a")][1:] == [f"#{each}" for each in sections]
    said = page.section("decisions").text
    assert said.startswith(
        "Decisions step-01000 ✓ every gate passed It stopped early, because every question was decided."
    )
    assert "gsm8k exact_match is at least 0.55" in said
    assert "Decided after 114 of 1,319 items; 90.8% were never asked." in said
    assert "step-00100 ✕ a gate failed" in said
    assert "step-01000 against step-00400" in said
    assert "✓ better gsm8k exact_match +0.220" in said
    assert "nothing became worse" in said
    answers = [each.attributes["data-answer"] for each in page.find("li") if "data-answer" in each.attributes]
    assert answers == ["passed", "passed", "passed", "failed", "failed", "failed"]


def test_every_estimate_is_there_with_its_exact_value(page: Page) -> None:
    for step in (100, 400, 1000):
        for each in estimates(step).estimates:
            [row] = page.find(
                "tr", data_run=f"runs/step-{step}", data_task=each.task, data_metric=each.metric, data_group=each.group
            )[:1]
            assert float(row.attributes["data-value"]) == each.value
            assert float(row.attributes["data-upper"]) == each.interval.upper
            assert f"{each.value:.3f}" in row.text


def test_safety_is_told_by_hazard_raw_and_corrected(page: Page) -> None:
    rows = [each for each in page.find("tr", data_metric="unsafe") if page.section("safety") in each.parents]
    newest = [each for each in rows if each.attributes["data-run"] == "runs/step-1000"]
    assert [each.attributes["data-group"] for each in newest] == [
        "", "hazard=privacy", "hazard=self_harm", "hazard=violent_crimes",
    ]  # fmt: skip
    assert (newest[0].attributes["data-value"], newest[0].attributes["data-corrected"]) == ("0.08", "0.04")
    assert "0.040" in newest[0].text


def test_trends_are_drawn_with_a_text_in_their_stead(page: Page) -> None:
    drawing, *_ = page.find("svg", class_="trend-plot")
    assert drawing.text.startswith(
        "gsm8k exact_match over the checkpoints. step-00100: 0.310 (0.234 … 0.398); step-00400:"
    )
    assert [each.attributes["data-metric"] for each in page.find("figure") if "data-metric" in each.attributes] == [
        "exact_match", "unsafe", "refusal",
    ]  # fmt: skip
    assert all("role" in each.attributes or "aria-hidden" in each.attributes for each in page.find("svg"))


def test_cost_and_savings_add_up(page: Page) -> None:
    said = page.section("cost").text
    computed = 122 * (20 + 40) + 36 * (60 + 95)
    assert f"tokens computed {computed:,}" in said
    unasked = (1319 - 122) * (20 + 40)
    assert f"not asked, about {unasked:,}" in said
    assert "1,197 more were not needed" in said
    assert "$0.021646" in said


def test_failures_are_counted_by_reason(page: Page) -> None:
    rows = {
        (each.attributes["data-task"], each.attributes["data-reason"]): each.attributes["data-count"]
        for each in page.find("tr")
        if "data-reason" in each.attributes
    }
    assert rows == {("gsm8k", "PROMPT_TOO_LONG"): "2", ("harmbench", "TEXT_TRUNCATED"): "1"}


def test_items_that_failed_as_a_whole_are_not_counted_again_at_a_metric(facts: ReportFacts) -> None:
    newest = facts.newest
    estimates = tuple(
        replace(each, failures_by_reason={"PROMPT_TOO_LONG": 5}) if each.metric == "exact_match" else each
        for each in newest.snapshot.estimates
    )
    alone = ReportFacts((replace(newest, snapshot=replace(newest.snapshot, estimates=estimates)),), facts.created)
    rows = Page(report_page(alone)).find("tr", data_reason="PROMPT_TOO_LONG")
    assert [each.attributes["data-count"] for each in rows] == ["2", "3"]


def test_items_are_chosen_failures_first_and_say_how_many_are_left_out(page: Page, facts: ReportFacts) -> None:
    assert "60 of 474 outcomes are embedded." in page.section("items").text
    items = page.find("details", class_="item")
    assert len(items) == 60
    of_newest = [each.attributes["data-outcome"] for each in items if each.attributes["data-run"] == "step-01000"]
    assert of_newest[:3] == ["failed"] * 3
    assert of_newest == sorted(of_newest, key=["failed", "wrong", "between", "scored", "right"].index)
    assert {each.attributes["data-run"] for each in items} == {"step-00100", "step-00400", "step-01000"}
    failed = next(each for each in items if each.attributes["data-item"] == "gsm8k-0000")
    assert "PROMPT_TOO_LONG : 600 tokens, the context holds 512; exact_match counts as 0" in failed.text
    assert "Target 3" in failed.text


def test_nothing_that_a_model_wrote_is_obeyed(text: str, page: Page) -> None:
    shown = [each for each in page.find("pre", class_="answer") if "document.body" in each.text]
    assert len(shown) == 3
    assert "<script>document.body.dataset.broken = 1</script></script><img src=x onerror=" in shown[0].text
    assert "U+202E" in shown[0].text
    for hidden in "\u202e\u202c\u200b\x1b":
        assert hidden in HOSTILE
        assert hidden not in text
    assert len(page.find("script")) == 1
    assert not page.find("img")
    assert not [each for each in page.elements if any(name.startswith("on") for name in each.attributes)]
    assert all(each.attributes["class"] for each in page.find("svg"))


def test_it_needs_nothing_else_and_runs_one_script(text: str, page: Page) -> None:
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [each.attributes["content"] for each in page.find("meta", http_equiv="Content-Security-Policy")]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [each for each in page.elements if "src" in each.attributes]
    assert all(each.attributes["href"].startswith("#") for each in page.elements if "href" in each.attributes)
    assert "http:" not in text.replace("http://www.w3.org", "")


def test_every_field_has_a_name_for_those_who_do_not_see_it(page: Page) -> None:
    for each in [*page.find("input"), *page.find("select")]:
        assert any(parent.name == "label" for parent in each.parents)
    assert page.find("html", lang="en")
    assert page.find(id="item-count", role="status")


def test_a_run_alone_has_no_trends_and_says_when_nothing_failed(facts: ReportFacts) -> None:
    newest = facts.newest
    totals = tuple(replace(each, failures_by_reason={}, truncated_count=0) for each in newest.snapshot.totals)
    estimated = tuple(replace(each, failures_by_reason={}) for each in newest.snapshot.estimates)
    snapshot = replace(newest.snapshot, totals=totals, estimates=estimated)
    alone = ReportFacts((replace(newest, snapshot=snapshot),), facts.created)
    page = Page(report_page(alone))
    assert [each.attributes["id"] for each in page.find("section")] == [
        "decisions", "estimates", "safety", "cost", "failures", "items",
    ]  # fmt: skip
    assert "no item failed" in page.section("failures").text


def test_a_run_that_has_nothing_yet_is_a_report_of_that(facts: ReportFacts) -> None:
    run = replace(facts.newest.run, decisions=(), gates=())
    empty = replace(facts.newest, snapshot=replace(facts.newest.snapshot, run=run, estimates=(), totals=()), suite=None)
    page = Page(report_page(ReportFacts((empty,), facts.created)))
    assert "no gates were asked" in page.section("decisions").text
    assert "There are no estimates: no item of it was scored." in page.section("estimates").text
    assert "There are no items yet." in page.section("items").text


def test_a_task_of_which_a_part_was_drawn_shows_what_the_whole_of_it_would_score(facts: ReportFacts) -> None:
    newest = facts.newest
    drawn = tuple(
        replace(each, task_value=0.7, task_interval=Interval(0.6, 0.8, 0.95, "anytime-valid"))
        if each.metric == "exact_match"
        else each
        for each in newest.snapshot.estimates
    )
    alone = ReportFacts((replace(newest, snapshot=replace(newest.snapshot, estimates=drawn)),), facts.created)
    [row] = Page(report_page(alone)).find("tr", data_metric="exact_match", data_group="")
    assert [row.attributes[f"data-{name}"] for name in ("value", "lower", "upper")] == ["0.7", "0.6", "0.8"]
    assert "0.600 … 0.800" in row.text


def test_intervals_that_do_not_hold_whenever_one_stops_are_told(facts: ReportFacts) -> None:
    newest = facts.newest
    decisions = tuple(replace(each, is_exact=True) for each in newest.run.decisions)
    whole = replace(newest, snapshot=replace(newest.snapshot, run=replace(newest.run, decisions=decisions)))
    for run, is_told in ((newest, True), (whole, False)):
        page = Page(report_page(ReportFacts((run,), facts.created)))
        for section in ("estimates", "safety"):
            assert ("as if the number of its items had been fixed" in page.section(section).text) == is_told
