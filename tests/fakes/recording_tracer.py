"""A tracer that keeps its spans, for tests that look at them; it samples all, or no new trace."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.runtime.telemetry.spans import Attributes, AttributeValue, Span, SpanKind
from services.runtime.trace_context import TraceContext, parse_traceparent


@dataclass
class KeptSpan:
    """One span."""

    name: str
    kind: SpanKind
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, AttributeValue]
    traceparent: str
    is_recording: bool = True
    failure: str = ""
    has_ended: bool = False

    def set(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def fail(self, reason: str) -> None:
        self.failure = reason

    def end(self) -> None:
        assert not self.has_ended, self.name
        self.has_ended = True

    @property
    def trace_id(self) -> str:
        return self.traceparent.split("-")[1]


@dataclass
class RecordingTracer:
    """Keeps the spans that are sampled, in the order in which they begin."""

    samples_new: bool = True
    spans: list[KeptSpan] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def begin(
        self, name: str, kind: SpanKind, *, parent: str, links: Sequence[str] = (), attributes: Attributes
    ) -> Span:
        context = parse_traceparent(parent) if parent else None
        number = next(self.numbers)
        trace_id = f"{number:032x}" if context is None else context.trace_id
        sampled = self.samples_new if context is None else context.is_sampled
        own = TraceContext(trace_id, f"{number:016x}", sampled).traceparent
        kept = KeptSpan(name, kind, parent, tuple(links), dict(attributes), own, is_recording=sampled)
        if sampled:
            self.spans.append(kept)
        return kept

    def close(self) -> None:
        pass

    def named(self, name: str) -> list[KeptSpan]:
        """Return the spans of a name."""
        return [each for each in self.spans if each.name == name]
