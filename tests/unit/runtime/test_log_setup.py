"""The log is one event per line, carries the ids of the call, and never stops the service."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog

from services.runtime.calls import bind_ids
from services.runtime.errors import NotFoundError, UnavailableError
from services.runtime.log_setup import LineWriter, LogFormat, configure_logging
from services.runtime.testing import as_bytes, serve_in_process

UNARY = "/test.v1.TestService/Unary"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def configured(log_format: LogFormat = "json", level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level=level, log_format=log_format, service="safety", stream=stream)
    return stream


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_the_ids_of_the_call() -> None:
    stream = configured()
    with bind_ids(run_id="runs/1", item_id="i"):
        structlog.get_logger().info("verdict_reached", text="line one\nline two", path=object)
    [line] = lines_of(stream)
    assert line.pop("time").endswith("Z")
    assert line.pop("path") == repr(object)
    assert line == {
        "event": "verdict_reached",
        "text": "line one\nline two",
        "level": "info",
        "run_id": "runs/1",
        "item_id": "i",
        "service": "safety",
    }


def test_a_line_about_another_call_does_not_get_the_ids_of_this_one() -> None:
    stream = configured()
    with bind_ids(request_id="q1", run_id="runs/1"):
        structlog.get_logger().info("call_finished", request_id="q2")
    [line] = lines_of(stream)
    assert line["request_id"] == "q2"
    assert "run_id" not in line


def test_other_libraries_log_in_the_same_form() -> None:
    stream = configured()
    logging.getLogger("sqlalchemy.pool").warning("pool of %d is full", 5)
    logging.getLogger("chatty").debug("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", UserWarning, stacklevel=1)
    first, second = lines_of(stream)
    assert (first["event"], first["message"]) == ("library_message", "pool of 5 is full")
    assert (first["logger"], first["level"], first["service"]) == ("sqlalchemy.pool", "warning", "safety")
    assert "old thing" in second["message"]


def test_levels_below_the_threshold_are_dropped() -> None:
    stream = configured(level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud", exc_info=ValueError("why"))
    [line] = lines_of(stream)
    assert line["event"] == "loud"
    assert "ValueError: why" in line["exception"]


def test_console_and_auto_formats() -> None:
    stream = configured("console")
    structlog.get_logger().info("verdict_reached", code="S1")
    assert "verdict_reached" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        lines_of(stream)
    stream = configured("auto")  # not a terminal
    structlog.get_logger().info("verdict_reached")
    assert lines_of(stream)[0]["event"] == "verdict_reached"


def test_the_console_shows_no_local_variables() -> None:
    stream = configured("console")

    def fail(prompt: str) -> None:
        raise ValueError("no")

    try:
        fail("a secret prompt")
    except ValueError as error:
        structlog.get_logger().error("failed", exc_info=error)
    assert "ValueError: no" in stream.getvalue()
    assert "a secret prompt'" not in stream.getvalue()


def test_a_line_that_cannot_be_written_is_dropped() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    LineWriter(ascii_only).info("café")
    ascii_only.flush()
    assert b"caf\\xe9\n" in ascii_only.buffer.getvalue()
    closed = io.StringIO()
    closed.close()
    LineWriter(closed).info("lost")


async def test_every_call_is_logged_with_its_outcome_and_ids(make_service: Any) -> None:
    async def handle(request: bytes, context: Any) -> bytes:
        structlog.get_logger().info("inside_the_call")
        match request:
            case b"missing":
                raise NotFoundError("no such item", reason="ITEM_NOT_FOUND")
            case b"down":
                raise UnavailableError("Triton is down")
        return b""

    stream = configured()
    async with serve_in_process(make_service(unary=handle)) as channel:
        call = channel.unary_unary(UNARY, as_bytes, as_bytes)
        with bind_ids(run_id="runs/1"):
            await call(b"", metadata=(("x-request-id", "q1"),))
        for request in (b"missing", b"down"):
            with pytest.raises(grpc.RpcError):
                await call(request)
        await channel.unary_unary("/grpc.health.v1.Health/Check", as_bytes, as_bytes)(b"")
    lines = lines_of(stream)
    finished = [line for line in lines if line["event"] == "call_finished"]
    assert [(line["code"], line["level"], line.get("reason")) for line in finished] == [
        ("OK", "info", None),
        ("NOT_FOUND", "info", "ITEM_NOT_FOUND"),
        ("UNAVAILABLE", "warning", "UNAVAILABLE"),
    ]
    assert all(line["method"] == "test.v1.TestService/Unary" and line["duration_ms"] >= 0 for line in finished)
    assert (finished[0]["request_id"], finished[0]["run_id"]) == ("q1", "runs/1")
    # Successes are formatted apart from the other lines, yet alike.
    assert finished[0].keys() - {"run_id"} == finished[1].keys() - {"reason", "message"}
    # Other calls' lines are not given the ids of the call during which they are written.
    assert "run_id" not in finished[1]
    assert len({line["request_id"] for line in finished}) == 3
    inside = [line for line in lines if line["event"] == "inside_the_call"]
    assert [line["request_id"] for line in inside] == [line["request_id"] for line in finished]


async def test_successes_are_written_while_the_server_runs(make_service: Any) -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            if "call_finished" in text:
                seen.append(text)
            return super().write(text)

    seen: list[str] = []
    configure_logging(level="info", log_format="json", service="x", stream=Watched())
    async with serve_in_process(make_service(unary=echo)) as channel:
        call = channel.unary_unary(UNARY, as_bytes, as_bytes)
        while not seen:  # each turn is a call, so the loop waits for the network, not for the clock
            await call(b"")


async def test_probes_are_logged_only_when_debugging(make_service: Any) -> None:
    stream = configured(level="debug")
    async with serve_in_process(make_service()) as channel:
        await channel.unary_unary("/grpc.health.v1.Health/Check", as_bytes, as_bytes)(b"")
    [line] = [line for line in lines_of(stream) if line["event"] == "call_finished"]
    assert (line["method"], line["level"]) == ("grpc.health.v1.Health/Check", "debug")
