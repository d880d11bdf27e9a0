"""Spans go through OpenTelemetry's SDK to a collector or into a file, as the environment says."""

import json
import os
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from services.runtime.errors import StartupError
from services.runtime.telemetry.setup import TracingOptions, open_tracer, recording_traces
from services.runtime.telemetry.spans import current_tracer, span

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector:
    """What an OpenTelemetry collector is for us: the names of the spans that it was sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def export(self, request: Any, context: Any) -> Any:
        self.names += [each.name for r in request.resource_spans for s in r.scope_spans for each in s.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    kept = Collector()
    export = grpc.unary_unary_rpc_method_handler(
        kept.export,
        trace_service_pb2.ExportTraceServiceRequest.FromString,
        trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield kept
    server.stop(None).wait()


def written(file: Path) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return each span of a file with the attributes of its process."""
    found = []
    for line in file.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            process = {each["key"]: each["value"].get("stringValue", "") for each in resource["resource"]["attributes"]}
            found += [(process, each) for scope in resource["scopeSpans"] for each in scope["spans"]]
    return found


def test_a_file_has_lines_of_otlp_json(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    for name in ("generation", "safety"):
        with (
            recording_traces(name, TracingOptions(ratio=0.0, file=file)),
            span(
                "outer", "client", parent=PARENT, links=[PARENT], attributes={"tokens": 7, "seconds": 0.5, "on": True}
            ),
            pytest.raises(ValueError, match="boom"),
            span("inner"),
        ):
            raise ValueError("boom")
    assert current_tracer() is None
    (inner_process, inner), (process, outer), *others = written(file)
    assert (process["service.name"], len(others)) == ("evalfleet-generation", 2)
    assert inner_process == process
    assert set(process) >= {"service.version", "service.instance.id", "telemetry.sdk.name"}
    # Ids are hexadecimal and enums numbers, unlike in protobuf's own JSON.
    assert (outer["traceId"], outer["parentSpanId"], outer["kind"]) == (*PARENT.split("-")[1:3], 3)
    assert outer["links"][0]["spanId"] == PARENT.split("-")[2]
    assert (inner["parentSpanId"], inner["traceId"]) == (outer["spanId"], outer["traceId"])
    assert inner["status"] == {"code": 2, "message": "ValueError"}
    values = {each["key"]: each["value"] for each in outer["attributes"]}
    assert values == {"tokens": {"intValue": "7"}, "seconds": {"doubleValue": 0.5}, "on": {"boolValue": True}}
    assert int(outer["endTimeUnixNano"]) >= int(outer["startTimeUnixNano"]) > 0


def test_a_collector_gets_what_the_standard_variables_say(collector: Collector) -> None:
    options = TracingOptions.read(os.environ, ratio=1.0)
    with recording_traces("scoring", options), span("whole"), span("part"):
        pass
    assert sorted(collector.names) == ["part", "whole"]


def test_a_collector_that_is_away_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("services.runtime.telemetry.otel._LAST_SECONDS", 0.1)
    with recording_traces("scoring", TracingOptions(ratio=1.0, sends_otlp=True)), span("whole") as opened:
        assert opened.is_recording


def test_the_ratio_is_of_new_traces_and_parents_decide_for_theirs(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    with recording_traces("generation", TracingOptions(ratio=0.25, file=file)):
        for _ in range(400):
            with span("new", begins_trace=True):
                pass
        for _ in range(5):
            with span("asked for", parent=PARENT):
                pass
    names = [each["name"] for _, each in written(file)]
    assert names.count("asked for") == 5
    # Ten standard deviations.
    assert 13 <= names.count("new") <= 187


@pytest.mark.parametrize(
    ("environ", "is_on", "sends"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, False, False),
        ({"EVALFLEET_TRACE_FILE": "t.jsonl"}, True, False),
        ({"EVALFLEET_TRACE_FILE": "t.jsonl", "OTEL_SDK_DISABLED": "true"}, False, False),
    ],
)
def test_the_environment_says_where_spans_go(environ: dict[str, str], is_on: bool, sends: bool) -> None:
    options = TracingOptions.read(environ)
    assert (options.is_on, options.sends_otlp) == (is_on, sends)
    if not is_on:
        assert open_tracer("generation", options) is None


def test_a_file_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no such folder"):
        open_tracer("generation", TracingOptions(file=tmp_path / "none" / "t.jsonl"))
