"""Spans as lines of OTLP/JSON in a file: for laptops and tests, and for collectors that read files."""

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_IDS = ("traceId", "spanId", "parentSpanId")


class FileSpanExporter(SpanExporter):
    """Appends one line a batch, each an ``ExportTraceServiceRequest``; several processes may share the file.

    Args:
        path: of the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans; what cannot be written is lost, because serving goes on without it."""
        line = json.dumps(as_json(spans), ensure_ascii=False, separators=(",", ":")) + "\n"
        try:
            # One write to a file opened for appending: lines of several processes do not mix.
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is held open."""


def as_json(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Return spans as OTLP/JSON, which differs from protobuf's own JSON: ids are hexadecimal and enums numbers."""
    message = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in message.get("resourceSpans", ()):
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for described in (span, *span.get("links", ())):
                    for name in _IDS:
                        if name in described:
                            described[name] = base64.b64decode(described[name]).hex()
    return dict(message)
