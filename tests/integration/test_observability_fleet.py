"""What operators see of a real fleet: one whole trace an item, and every series that anything asks for."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

from services.runtime.free_ports import free_port
from services.standalone.testing import RunningFleet
from tests.contract.metrics_inventory import MAKERS, series_of
from tests.contract.promql import RULES, base_name, queries, selectors
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

ITEMS = 4
TASK = """\
name: observed
description: Requests whose prompts a guard judges, and whose answers a scorer.
provenance: {licence: Apache-2.0, citation: Written for this test}
sources:
  - root: bundled
    files: {test: observed.jsonl}
    columns: [id, prompt]
split: test
item_id: id
request: generate
format: chat
prompt: "{{ prompt }}"
generation: {max_tokens: 4}
scorers:
  - {scorer: refusal, metrics: [{name: refusal, from: refused}]}
safety: {aspect: prompt}
primary_metric: refusal
"""
NOT_HERE = (
    # Other services, other settings, or nothing that went wrong: the contract tests know their names and labels.
    "evalfleet_code_runner_",
    "evalfleet_certificate_",
    "evalfleet_safety_cascade_",
    "evalfleet_calls_refused_total",
    "evalfleet_evaluation_failures_total",
    "evalfleet_judge_cache_",
)


@dataclass(frozen=True)
class Observed:
    """A fleet, the file of its traces, and a run that it has finished."""

    fleet: RunningFleet
    traces: Path
    run_id: str


@dataclass(frozen=True)
class Span:
    """A span of the file; ``service`` is its process's."""

    service: str
    name: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, str]
    is_failed: bool


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for what comes from other processes, which tell nobody when it is there."""
    give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    prompts = "".join(
        json.dumps({"id": f"bread-{number}", "prompt": f"How do I bake bread number {number}?"}) + "\n"
        for number in range(ITEMS)
    )
    for name, text in (
        ("tasks/observed.yaml", TASK),
        ("suites/observing.yaml", "name: observing\ndescription: One task.\ntasks: [observed]\n"),
        ("suites/data/observed.jsonl", prompts),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    traces = folder / "traces.jsonl"
    environment = {
        "EVALFLEET_TRACE_FILE": str(traces),
        "EVALFLEET_TRACE_RATIO": "1",
        # How long spans wait to be sent together, in milliseconds.
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with RunningFleet(checkpoint_roots=[tiny_policy], suite_dirs=[folder], environment=environment) as fleet:
        with Fleet.connect(fleet.endpoints) as client:
            model = client.models.add(tiny_policy).name
            run = client.runs.start(model=model, suite="observing")
            for snapshot in client.runs.watch(run.name):
                last = snapshot
            assert last.run.state is RunState.SUCCEEDED, last.run.failure
        yield Observed(fleet, traces, run.name.removeprefix("runs/"))


def spans_of(file: Path) -> dict[str, list[Span]]:
    """Return the spans by their traces."""
    found: dict[str, list[Span]] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        for resource in json.loads(line)["resourceSpans"]:
            process = {each["key"]: each["value"] for each in resource["resource"]["attributes"]}
            service = process["service.name"]["stringValue"].removeprefix("evalfleet-")
            for each in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                attributes = {one["key"]: str(next(iter(one["value"].values()))) for one in each.get("attributes", ())}
                is_failed = each.get("status", {}).get("code") == 2
                span = Span(service, each["name"], each["spanId"], each.get("parentSpanId", ""), attributes, is_failed)
                found.setdefault(each["traceId"], []).append(span)
    return found


def ways(spans: list[Span]) -> set[str]:
    """Return the way from the root to each span, as far as it is known: ``evaluation item > generation …``."""
    by_id = {each.span_id: each for each in spans}

    def way(span: Span) -> str:
        here = f"{span.service} {span.name.rpartition('.')[2]}"
        return f"{way(by_id[span.parent_id])} > {here}" if span.parent_id in by_id else here

    return {way(each) for each in spans}


WHOLE = {
    "evaluation item",
    "evaluation item > evaluation generate",
    "evaluation item > evaluation generate > generation StreamGenerate/item",
    "evaluation item > evaluation generate > generation StreamGenerate/item > generation inference",
    "evaluation item > evaluation generate > generation StreamGenerate/item > generation inference > triton model",
    "evaluation item > evaluation score",
    "evaluation item > evaluation score > scoring BatchScore/item",
    "evaluation item > evaluation classify",
    "evaluation item > evaluation classify > safety SafetyService/Classify",
    "evaluation item > evaluation classify > safety SafetyService/Classify > safety inference",
    "evaluation item > evaluation classify > safety SafetyService/Classify > safety inference > triton model",
    "evaluation item > aggregation AppendResults/item",
}


def test_each_item_is_one_whole_trace(observed: Observed) -> None:
    def items() -> dict[str, list[Span]]:
        found = spans_of(observed.traces)
        return {trace: spans for trace, spans in found.items() if any(each.name == "item" for each in spans)}

    until(lambda: sum(ways(spans) >= WHOLE for spans in items().values()) == ITEMS, f"{ITEMS} whole traces")
    for spans in items().values():
        assert ways(spans) == WHOLE
        (root,) = (each for each in spans if not each.parent_id)
        assert root.attributes["evalfleet.item.id"].startswith("observed/")
        assert {each.attributes["evalfleet.run.id"] for each in spans if each.service != "triton"} == {observed.run_id}
        assert not any(each.is_failed for each in spans)
        models = [each for each in spans if each.service == "triton"]
        assert all(float(each.attributes["evalfleet.engine_seconds"]) > 0 for each in models)
        assert "How do I" not in "".join(value for each in spans for value in each.attributes.values())
    logged = "".join(log.read_text(errors="replace") for log in (observed.fleet.state_dir / "logs").glob("*.log"))
    calls = {trace for trace, spans in items().items() if f'"trace_id": "{trace}"' in logged}
    assert calls == items().keys()


class Prometheus:
    """A Prometheus that scrapes a fleet."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return what a query finds."""
        found: list[dict[str, Any]] = self._get(f"query?{urllib.parse.urlencode({'query': query})}")["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with what became of them."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}", timeout=LONGEST_WAIT_SECONDS) as answer:
            return json.load(answer)["data"]

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            self._get("query?query=1")
        except OSError:
            return False
        return True


@contextmanager
def scraping(fleet: RunningFleet, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus, with our rules, over a fleet's metrics."""
    targets = {("triton" if name == "inference" else name): target for name, target in fleet.metrics_targets.items()}
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(each) for each in RULES],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(address)
        until(prometheus.is_ready, (folder / "prometheus.log").read_text())
        until(lambda: len(prometheus.ask("count_over_time(up[1m]) > 2")) == len(targets), "scrapes of every part")
        yield prometheus
    finally:
        process.terminate()
        process.wait(LONGEST_WAIT_SECONDS)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus: apt-get install prometheus")
def test_prometheus_finds_every_series_that_is_asked_for(observed: Observed, tmp_path: Path) -> None:
    known = {series.name: series for makers in MAKERS.values() for _, make in makers for series in series_of(make)}
    histograms = {name for name, series in known.items() if series.kind == "histogram"}
    asked = list(queries())
    with scraping(observed.fleet, tmp_path) as prometheus:
        assert {each["metric"]["job"]: each["value"][1] for each in prometheus.ask("up")} == dict.fromkeys(
            ("evaluation", "generation", "safety", "scoring", "aggregation", "triton"), "1"
        )
        for query in asked:
            found = prometheus.ask(query.expression)
            if query.owner.startswith("keda"):
                assert found or "triton-pool" in query.expression, query
        names = {name for query in asked for name, _ in selectors(query.expression) if ":" not in name and name != "up"}
        here = {name for name in names if not name.startswith(NOT_HERE)}
        assert len(here) > 25
        for name in here:
            series = known[base_name(name, histograms)]
            labels = ("job", "instance", *series.labels, *(("le",) if name.endswith("_bucket") else ()))
            with_all = ",".join(f'{label}!=""' for label in labels)
            assert prometheus.ask(f"{name}{{{with_all}}}"), f"no {name} with {labels}"
        until(lambda: all(each["health"] == "ok" for each in prometheus.rules()), "an evaluation of every rule")
        assert not [each["name"] for each in prometheus.rules() if each.get("state") == "firing"]
        served = {each["metric"]["__name__"] for each in prometheus.ask('{__name__=~"evalfleet_.*"}')}
        assert {name for name in served if base_name(name, histograms) not in known and ":" not in name} == set()
