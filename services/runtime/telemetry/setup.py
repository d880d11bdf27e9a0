"""Which traces a process records and where it sends them, from its environment."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from services.runtime.error_types import StartupError
from services.runtime.telemetry.spans import Tracer, tracing_with
from services.runtime.versions import services_version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

DEFAULT_RATIO: Final = 0.01
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, slots=True)
class TracingOptions:
    """What is recorded, and where it goes.

    Attributes:
        ratio: share of the traces that begin here which are recorded; of the others, their beginner decides.
        file: receives spans as OTLP/JSON lines.
        sends_otlp: spans go to the collector that OpenTelemetry's own variables name.
    """

    ratio: float = DEFAULT_RATIO
    file: Path | None = None
    sends_otlp: bool = False

    @property
    def is_on(self) -> bool:
        """Whether spans go anywhere."""
        return self.sends_otlp or self.file is not None

    @classmethod
    def read(cls, environ: Mapping[str, str], *, ratio: float | None = None, file: Path | None = None) -> Self:
        """Return what an environment says; a service's settings have read ``ratio`` and ``file`` already.

        OpenTelemetry's own switches are obeyed: ``OTEL_SDK_DISABLED`` and ``OTEL_TRACES_EXPORTER=none``.
        """
        told_ratio = environ.get("EVALFLEET_TRACE_RATIO", "")
        told_file = environ.get("EVALFLEET_TRACE_FILE", "")
        is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        sends = any(environ.get(each) for each in _ENDPOINTS) and environ.get("OTEL_TRACES_EXPORTER") != "none"
        if is_off:
            return cls()
        return cls(
            ratio=float(told_ratio or DEFAULT_RATIO) if ratio is None else ratio,
            file=file or (Path(told_file) if told_file else None),
            sends_otlp=bool(sends),
        )


def open_tracer(service: str, options: TracingOptions) -> Tracer | None:
    """Return what records a process's spans; ``None`` where they go nowhere.

    Args:
        service: of the fleet: ``generation``.
        options: what is recorded.

    Raises:
        StartupError: the packages are missing (TRACING_NOT_INSTALLED), or the file cannot be written.
    """
    if not options.is_on:
        return None
    try:
        from services.runtime.telemetry.otel import OtelTracer

        exporters = _exporters(options)
    except ModuleNotFoundError as error:
        raise StartupError(
            f"traces are asked for and the package of {error.name} is not there; install evalfleet-services[tracing], "
            "or unset EVALFLEET_TRACE_FILE and OTEL_EXPORTER_OTLP_ENDPOINT",
            reason="TRACING_NOT_INSTALLED",
        ) from error
    return OtelTracer(
        f"evalfleet-{service}",
        version=services_version(),
        instance=f"{socket.gethostname()}:{os.getpid()}",
        ratio=options.ratio,
        exporters=exporters,
    )


@contextmanager
def recording_traces(service: str, options: TracingOptions) -> Iterator[None]:
    """Record a process's spans for the length of a ``with`` block, and send the last of them at its end.

    Raises:
        StartupError: see ``open_tracer``.
    """
    tracer = open_tracer(service, options)
    try:
        with tracing_with(tracer):
            yield
    finally:
        if tracer is not None:
            tracer.close()


def _exporters(options: TracingOptions) -> "list[SpanExporter]":
    exporters: list[SpanExporter] = []
    if options.sends_otlp:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        # It reads OpenTelemetry's variables itself: endpoint, headers, certificates, compression, timeout.
        exporters.append(OTLPSpanExporter())
    if options.file is not None:
        from services.runtime.telemetry.file_exporter import FileSpanExporter

        if not options.file.absolute().parent.is_dir():
            raise StartupError(
                f"cannot write traces to EVALFLEET_TRACE_FILE={options.file}: there is no such folder",
                reason="TRACE_FILE_NOT_WRITABLE",
            )
        exporters.append(FileSpanExporter(options.file.absolute()))
    return exporters
