"""Rules, dashboards and scalers ask for series that the code registers, with the labels that those have."""

import re
import shutil
import subprocess

import pytest

from deploy.grafana.make_dashboards import DASHBOARDS as MADE
from deploy.grafana.make_dashboards import as_json
from tests.contract.metrics_inventory import MAKERS, series_of
from tests.contract.promql import DASHBOARDS, ROOT, RULES, base_name, queries, rules, selectors

SCRAPED = {"job", "instance"}
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus")


def registered() -> dict[str, set[str]]:
    """Return the labels of every series by its name, those of recording rules included."""
    found: dict[str, set[str]] = {"up": set()}
    for _, make in (each for makers in MAKERS.values() for each in makers):
        for series in series_of(make):
            found[series.name] = set(series.labels) | ({"le"} if series.kind == "histogram" else set())
    for name, rule in rules():
        if "record" in rule:
            by = re.search(r"by \(([^)]*)\)", rule["expr"])
            found[name] = {label.strip() for label in by.group(1).split(",")} - {"le"} if by else set()
    return found


def test_queries_ask_for_what_there_is() -> None:
    known = registered()
    histograms = {name for name, labels in known.items() if "le" in labels}
    asked = 0
    for query in queries():
        found = list(selectors(query.expression))
        assert found, query
        for name, labels in found:
            series = base_name(name, histograms)
            assert series in known, (query.owner, name)
            # In a query over several series a grouping may be of one of them.
            everywhere = set().union(*(known[base_name(each, histograms)] for each, _ in found))
            assert labels <= everywhere | SCRAPED, (query.owner, name, labels - everywhere)
            asked += 1
    assert asked > 60


def test_scalers_are_among_the_queries() -> None:
    assert {query.owner for query in queries()} >= {"keda/triton", "keda-guard-triton/guard-triton"}


def test_every_alert_has_a_page_in_the_runbook_and_every_page_an_alert() -> None:
    told = {
        line.removeprefix("## ")
        for line in (ROOT / "docs/runbook.md").read_text().splitlines()
        if line.startswith("## ")
    }
    alerts = {name: rule for name, rule in rules() if "alert" in rule}
    assert told == alerts.keys()
    assert len({rule["annotations"]["runbook_url"].partition("#")[0] for rule in alerts.values()}) == 1
    for name, rule in alerts.items():
        link, _, page = rule["annotations"]["runbook_url"].partition("#")
        # Alertmanager and Grafana would take a relative one for a page of their own.
        assert link.startswith("https://")
        assert page == name.lower()
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["for"]


def test_dashboards_are_those_that_are_made() -> None:
    assert {path.read_text(encoding="utf-8") for path in DASHBOARDS} == {as_json(each) for each in MADE}
    for dashboard in MADE:
        titles = [each.title for each in dashboard.panels]
        assert len(set(titles)) == len(titles)


@promtool
def test_prometheus_takes_the_rules_and_its_configuration() -> None:
    checked = [
        ["check", "rules", *map(str, RULES)],
        ["check", "config", str(ROOT / "deploy/prometheus/prometheus.yaml")],
    ]
    for arguments in checked:
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_alerts_are_set_off_by_what_they_are_for() -> None:
    tests = ROOT / "deploy/prometheus/tests/alerts_test.yaml"
    done = subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", tests.read_text()))
    assert tested == {name for name, rule in rules() if "alert" in rule}
