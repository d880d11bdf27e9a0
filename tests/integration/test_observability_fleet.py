"""What operators see of a real fleet: one whole trace an item, and every series that anything asks for."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from evalfleet.code_runner.v1 import code_runner_pb2
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

from services.standalone.testing import RunningFleet
from tests.contract.metrics_inventory import MAKERS, series_of
from tests.contract.promql import base_name, queries, selectors
from tests.fakes.constant_judge import write_constant_judge
from tests.integration.guarded_safety import guarded_safety, words_file
from tests.integration.prometheus_process import Prometheus, scraping
from tests.integration.service_process import running_service
from tests.patience import wait_until

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
SLEEPING = """\
name: sleeping
description: Programs that end long after the tests.
provenance: {licence: Apache-2.0, citation: Written for this test}
sources:
  - root: bundled
    files: {test: observed.jsonl}
    columns: [id, prompt, program, tests]
split: test
item_id: id
request: generate
format: chat
prompt: "{{ prompt }}"
generation: {max_tokens: 4}
scorers:
  - scorer: code_execution
    parameters: {timeout_seconds: 60}
    details: {prompt: program, tests: tests}
    metrics: [{name: passed, from: passed}]
primary_metric: passed
"""
# An answer is a comment in it.
SLEEPING_PROGRAM = "import time\ntime.sleep(60)\n# "
OWN_FAULTS = re.compile("grpc_status=~")
"""A sound fleet has none; what no call ended with is a status that gRPC itself names."""
SELECTED = re.compile(r"[a-z_:0-9]+\{[^}]*\}")
PROGRAM = {
    "text": "    return 1\n",
    "details": {"prompt": "def f():\n", "tests": "assert f() == 1", "entry_point": "f"},
}


@dataclass(frozen=True)
class Observed:
    """A fleet, the file of its traces, a run that has ended and one that is open, and the metrics of all parts."""

    fleet: RunningFleet
    traces: Path
    run_id: str
    open_run_id: str
    metrics: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Span:
    """A span of the file; ``service`` is its process's."""

    service: str
    name: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, str]
    is_failed: bool


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    write_suite(folder)
    judge = write_constant_judge(folder / "judge")
    traces = folder / "traces.jsonl"
    name = code_runner_pb2.DESCRIPTOR.services_by_name["CodeRunnerService"].full_name
    with ExitStack() as stack:
        runner = stack.enter_context(running_service("code_runner", name, folder / "runner", SANDBOX_PROGRAMS="1"))
        environment = {
            "EVALFLEET_TRACE_FILE": str(traces),
            "EVALFLEET_TRACE_RATIO": "1",
            # How long spans wait to be sent together, in milliseconds.
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "EVALFLEET_JUDGE_MODELS": "judge",
            "EVALFLEET_CODE_RUNNER_TARGET": runner.target,
            "EVALFLEET_GUARDS_FILE": str(words_file(folder)),
        }
        roots = [tiny_policy, folder]
        fleet = stack.enter_context(RunningFleet(checkpoint_roots=roots, suite_dirs=[folder], environment=environment))
        with Fleet.connect(fleet.endpoints) as client:
            run_id = finished(client, client.models.add(tiny_policy).name, "observing")
            # Its verdicts are garbage, so that an item fails.
            constant = client.models.add(judge, model_id="judge").name
            finished(client, constant, "demo_questions_judged", item_limit=1)
            client.scoring.score(PROGRAM, scorer="code_execution", parameters={"timeout_seconds": 60})
            open_run_id = client.runs.start(model=constant, suite="sleeping").name.removeprefix("runs/")
            stages = [client.safety.guard(each) for each in ("minilm-hazard", "words")]
        guarded = stack.enter_context(guarded_safety(fleet, folder, stages))
        parts = {("triton" if name == "inference" else name): [each] for name, each in fleet.metrics_targets.items()}
        parts["safety"].append(guarded.metrics_target)
        parts["code-runner"] = [runner.metrics_target]  # who scrapes names the jobs
        yield Observed(fleet, traces, run_id, open_run_id, parts)


def write_suite(folder: Path) -> None:
    program = {"program": SLEEPING_PROGRAM, "tests": "pass"}
    prompts = "".join(
        json.dumps({"id": f"bread-{number}", "prompt": f"How do I bake bread number {number}?", **program}) + "\n"
        for number in range(ITEMS)
    )
    for name, text in (
        ("tasks/observed.yaml", TASK),
        ("tasks/sleeping.yaml", SLEEPING),
        ("suites/observing.yaml", "name: observing\ndescription: One task.\ntasks: [observed]\n"),
        ("suites/data/observed.jsonl", prompts),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def finished(client: Fleet, model: str, suite: str, item_limit: int | None = None) -> str:
    """Run a suite and return the run's id."""
    run = client.runs.start(model=model, suite=suite, item_limit=item_limit)
    for snapshot in client.runs.watch(run.name):
        last = snapshot
    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    return run.name.removeprefix("runs/")


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
        return {trace: spans for trace, spans in found.items() if is_of_the_run(spans)}

    def is_of_the_run(spans: list[Span]) -> bool:
        return any(each.name == "item" and each.attributes["evalfleet.run.id"] == observed.run_id for each in spans)

    wait_until(lambda: sum(ways(spans) >= WHOLE for spans in items().values()) == ITEMS, f"{ITEMS} whole traces")
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


@pytest.fixture(scope="module")
def prometheus(observed: Observed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus: apt-get install prometheus")
    with scraping(observed.metrics, tmp_path_factory.mktemp("prometheus")) as running:
        yield running


def test_prometheus_finds_every_series_that_is_asked_for(prometheus: Prometheus) -> None:
    known = {series.name: series for makers in MAKERS.values() for _, make in makers for series in series_of(make)}
    histograms = {name for name, series in known.items() if series.kind == "histogram"}
    asked = list(queries())
    names = {name for query in asked for name, _ in selectors(query.expression)}
    assert len(names) > 40

    def missing() -> list[str]:
        return [name for name in names if not is_there(name)]

    def is_there(name: str) -> bool:
        found = [each["metric"] for each in prometheus.ask(name)]
        series = known.get(base_name(name, histograms))
        if series is None:
            return bool(found)
        labels = {"job", "instance", *series.labels, *(("le",) if name.endswith("_bucket") else ())}
        return any(labels <= each.keys() for each in found)

    with suppress(AssertionError):
        # Recording rules are asked for what others have recorded.
        wait_until(lambda: not missing(), "all series")
    assert missing() == []
    for query in asked:
        assert prometheus.ask(query.expression) or not query.owner.startswith("keda"), query
    selected = {part for query in asked for part in SELECTED.findall(query.expression)}
    assert [each for each in selected if not prometheus.ask(each) and not OWN_FAULTS.search(each)] == []
    wait_until(lambda: all(each["health"] == "ok" for each in prometheus.rules()), "an evaluation of every rule")
    assert not [each["name"] for each in prometheus.rules() if each.get("state") == "firing"]


def test_what_is_exported_is_what_the_page_lists(prometheus: Prometheus) -> None:
    listed = {
        owner: {series.name for _, make in makers for series in series_of(make)} for owner, makers in MAKERS.items()
    }
    everywhere = listed.pop("every service")
    exported = prometheus.exported()
    exported["code_runner"] = exported.pop("code-runner")
    assert everywhere - set().union(*exported.values()) == set()
    for job, names in exported.items():
        own = listed.get(job, set())
        assert own - names == set(), job
        assert {each for each in names - everywhere - own if each.startswith("evalfleet_")} == set(), job


def test_a_run_has_series_while_it_is_open(observed: Observed, prometheus: Prometheus) -> None:
    def shown() -> set[tuple[str, str]]:
        return {(each["metric"]["run"], each["metric"]["state"]) for each in prometheus.ask("evalfleet_run_items")}

    assert shown() == {(observed.open_run_id, state) for state in ("scored", "failed", "open")}
    with Fleet.connect(observed.fleet.endpoints) as client:
        client.runs.cancel(f"runs/{observed.open_run_id}")
    wait_until(lambda: shown() == set(), "a scrape after its end")
