"""Configure the process's log: one event per line, JSON for machines or coloured text for people."""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Literal, Self, TextIO, TypeAlias

import structlog

from services.runtime.calls import current_scope

EventDict: TypeAlias = MutableMapping[str, Any]
_JSON = json.JSONEncoder(default=repr)
LogFormat = Literal["auto", "json", "console"]


def configure_logging(*, level: str, log_format: LogFormat, service: str, stream: TextIO | None = None) -> None:
    """Send structlog's events and other libraries' log records to one stream, in one form.

    Args:
        level: least severe line to write: debug, info, warning or error.
        log_format: see ``ServiceSettings.log_format``.
        service: added to every JSON line.
        stream: standard output by default.
    """
    stream = stream or sys.stdout
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    render: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, _render_json]
        if as_json
        # Not the rich traceback: it prints local variables, prompts among them.
        else [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    add_fields = _StandardFields(service if as_json else None)
    writer = JsonLines(stream, service) if as_json else LineWriter(stream)
    structlog.configure(
        processors=[add_fields, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=writer,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_foreign_event, add_fields],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.INFO))
    logging.captureWarnings(True)


def timestamp(seconds: float) -> str:
    """Return a time of ``time.time`` as ISO 8601 in UTC, with microseconds."""
    whole = int(seconds)
    return f"{_up_to_seconds(whole)}.{int((seconds - whole) * 1e6):06d}Z"


@lru_cache(maxsize=2)
def _up_to_seconds(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def current_json_lines() -> "JsonLines | None":
    """Return where JSON lines go, if the log is configured to be JSON."""
    factory = structlog.get_config()["logger_factory"]
    return factory if isinstance(factory, JsonLines) else None


def quoted(text: str) -> str:
    """Return ``text`` as a JSON string."""
    return encode_basestring_ascii(text)


class LineWriter:
    """Writes finished lines to a stream; what cannot be written is dropped, because serving goes on without it.

    It is structlog's logger and the factory of it in one: all lines of a process go to one stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *args: object) -> Self:
        """Return the logger that structlog asks its factory for."""
        return self

    def msg(self, line: str) -> None:
        """Write one line."""
        self.write(f"{line}\n")

    debug = info = warning = error = critical = msg

    def write(self, lines: str) -> None:
        """Write lines that end with their line feeds."""
        try:
            self._stream.write(lines)
            self._stream.flush()
        except UnicodeEncodeError:
            self._stream.write(lines.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):
            pass


class JsonLines(LineWriter):
    """A writer of JSON lines.

    Attributes:
        service: name of the service, as JSON.
    """

    def __init__(self, stream: TextIO, service: str) -> None:
        super().__init__(stream)
        self.service = quoted(service)


class _StandardFields:
    """Adds level, time and the ids of the call being handled; one processor, because it runs for every line."""

    def __init__(self, service: str | None) -> None:
        self._service = service

    def __call__(self, logger: object, method_name: str, event_dict: EventDict) -> EventDict:
        event_dict["level"] = method_name
        if "time" not in event_dict:
            event_dict["time"] = timestamp(time.time())
        # A line that brings its own request id was logged on behalf of another call.
        if "request_id" not in event_dict:
            event_dict.update(current_scope().ids.fields())
        if self._service is not None:
            event_dict["service"] = self._service
        return event_dict


def _render_json(logger: object, method_name: str, event_dict: EventDict) -> str:
    return _JSON.encode(event_dict)


def _name_foreign_event(logger: object, method_name: str, event_dict: EventDict) -> EventDict:
    """Give a library's free text a name of our kind; the text becomes its message."""
    record: logging.LogRecord = event_dict["_record"]
    event_dict["message"] = event_dict["event"]
    event_dict["event"] = "library_message"
    event_dict["logger"] = record.name
    return event_dict
