"""Spans recorded with the OpenTelemetry SDK, which is imported here alone: without tracing it need not be installed."""

import random
import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind as OtelKind

from services.runtime.telemetry.spans import Attributes, NoSpan, Span, SpanKind
from services.runtime.trace_context import TraceContext, parse_traceparent

_LAST_SECONDS: Final = 3.0
_KINDS: Final = {"internal": OtelKind.INTERNAL, "server": OtelKind.SERVER, "client": OtelKind.CLIENT}


class RecordedSpan:
    """A span of the SDK."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, opened: OtelSpan) -> None:
        self._span = opened
        context = opened.get_span_context()
        self.traceparent = TraceContext(
            f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled
        ).traceparent

    @property
    def is_recording(self) -> bool:
        """See ``Span``."""
        return self._span.is_recording()

    def set(self, attributes: Attributes) -> None:
        """See ``Span``."""
        self._span.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        """See ``Span``."""
        self._span.set_status(Status(StatusCode.ERROR, reason))
        self._span.set_attribute("error.type", reason)

    def end(self) -> None:
        """See ``Span``."""
        self._span.end()


class OtelTracer:
    """Samples by the parent, and traces that begin here by their ratio.

    Args:
        service: the process's name in traces: ``evalfleet-generation``.
        version: its version.
        instance: tells it from its replicas.
        ratio: share of the traces that begin here which are recorded.
        exporters: where spans go.
    """

    def __init__(
        self, service: str, *, version: str, instance: str, ratio: float, exporters: Sequence[SpanExporter]
    ) -> None:
        # The SDK reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, which win over what we say.
        own = {"service.name": service, "service.version": version, "service.instance.id": instance}
        told = OTELResourceDetector().detect()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(own).merge(told),
            shutdown_on_exit=False,
        )
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._ratio = ratio
        self._tracer = self._provider.get_tracer("evalfleet", version)

    def begin(
        self, name: str, kind: SpanKind, *, parent: str, links: Sequence[str] = (), attributes: Attributes
    ) -> Span:
        """See ``Tracer``."""
        if not parent and random.random() >= self._ratio:
            # Not left to the SDK's sampler, which takes a fifth of a call's time to say no. What lies behind hears it.
            trace_id, span_id = random.getrandbits(128) or 1, random.getrandbits(64) or 1
            return NoSpan(TraceContext(f"{trace_id:032x}", f"{span_id:016x}", False).traceparent)
        remote = _span_context(parent) if parent else None
        # Never the SDK's own current span: what belongs together is said by the caller.
        context = Context() if remote is None else set_span_in_context(NonRecordingSpan(remote), Context())
        linked = [Link(each) for each in map(_span_context, links) if each is not None]
        return RecordedSpan(
            self._tracer.start_span(name, context, _KINDS[kind], attributes, linked, record_exception=False)
        )

    def close(self) -> None:
        """See ``Tracer``."""
        # A collector that is away must not hold up the end of a process.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(_LAST_SECONDS)


def _span_context(traceparent: str) -> SpanContext | None:
    context = parse_traceparent(traceparent)
    if context is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=flags)
