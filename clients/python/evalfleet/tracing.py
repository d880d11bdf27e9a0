"""The trace that a program of ours is called in, if it records any: handed on, so that a call is a part of it."""

import sys

TRACEPARENT_KEY = "traceparent"
"""Metadata key of W3C's Trace Context."""


def current_trace() -> tuple[tuple[str, str], ...]:
    """Return the metadata that hands on the caller's current span; none where OpenTelemetry is not in use.

    Who records spans has imported OpenTelemetry; who has not need not have it, and does not wait for it here.
    """
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return ()
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return ()
    flags = int(context.trace_flags) & 0xFF
    return ((TRACEPARENT_KEY, f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"),)
