"""A call is a part of its caller's trace, if the caller records one; OpenTelemetry is never asked for."""

import subprocess
import sys
from typing import Any

import pytest
from evalfleet.client_settings import CallPlans, ClientSettings
from evalfleet.tracing import current_trace
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

PROGRAM = """\
import sys
import evalfleet.fleet, evalfleet.tracing
assert evalfleet.tracing.current_trace() == ()
assert not [each for each in sys.modules if each.startswith("opentelemetry")]
"""


def test_without_opentelemetry_nothing_is_handed_on_and_nothing_imported() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)


def test_the_caller_s_span_is_handed_on() -> None:
    assert current_trace() == ()
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("training step") as span:
        context = span.get_span_context()
        metadata: dict[str, Any] = dict(CallPlans(ClientSettings()).metadata("id"))
    assert metadata["traceparent"] == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert context.trace_flags.sampled


@pytest.mark.parametrize("flags", [0, 1])
def test_a_caller_that_does_not_sample_says_so(flags: int) -> None:
    context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(flags))
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert current_trace() == (("traceparent", f"00-{1:032x}-{2:016x}-0{flags}"),)
