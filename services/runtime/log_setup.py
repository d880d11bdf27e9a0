"""Configure the process's log: one event per line, JSON for machines or coloured text for people."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

from services.runtime.calls import current_scope

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
    shared: list[structlog.typing.Processor] = [
        _add_call_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, _add_service(service), structlog.processors.JSONRenderer()]
        if as_json
        # Not the rich traceback: it prints local variables, prompts among them.
        else [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_foreign_event, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.INFO))
    logging.captureWarnings(True)


def _add_call_ids(logger: object, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ids of the call being handled."""
    scope = current_scope()
    if scope.request_id:
        event_dict["request_id"] = scope.request_id
    if scope.run_id:
        event_dict["run_id"] = scope.run_id
    if scope.item_id:
        event_dict["item_id"] = scope.item_id
    return event_dict


def _add_service(service: str) -> structlog.typing.Processor:
    def add(logger: object, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event_dict["service"] = service
        return event_dict

    return add


def _name_foreign_event(
    logger: object, method_name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Give a library's free text a name of our kind; the text becomes its message."""
    record: logging.LogRecord = event_dict["_record"]
    event_dict["message"] = event_dict["event"]
    event_dict["event"] = "library_message"
    event_dict["logger"] = record.name
    return event_dict
