"""The relay passes on what an operator wants, counts a flood, and never waits for who reads."""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from services.runtime.security.handshakes import relay as module
from services.runtime.security.handshakes.lines import FailedHandshake
from services.runtime.security.handshakes.relay import Passed, Tally, relay
from tests.unit.runtime.security.handshakes.test_lines import _STEP, EXPIRED, OF_SERVER

GOAWAY = b"I1122 22:23:48.922039    9445 chttp2_transport.cc:1] GOAWAY"
NO_PORT = b"E1122 22:23:48.922039    9445 server.cc:7] no port"
CRASH = b"Fatal Python error: Aborted"
FAILED = _STEP % (EXPIRED, OF_SERVER)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for each in ends:
            try:
                os.close(each)
            except OSError:
                """Closed already."""


def relayed(content: bytes, *, least: bytes = b"E", shows_handshakes: bool = False) -> tuple[bytes, list[Any]]:
    """Relay what fits into a pipe; return what was shown, and the reports."""
    with pipe() as (source, sink), pipe() as (reports, reported), pipe() as (seen, shown):
        os.write(sink, content)
        os.close(sink)
        relay(source, reported, shown, least=least, shows_handshakes=shows_handshakes)
        os.close(reported)
        os.close(shown)
        return os.read(seen, 1 << 16), [json.loads(line) for line in os.read(reports, 1 << 16).splitlines()]


@pytest.mark.parametrize(
    ("least", "shows_handshakes", "expected"),
    [
        (b"E", False, [NO_PORT, CRASH]),
        (b"I", False, [GOAWAY, NO_PORT, CRASH]),
        (b"F", False, [CRASH]),
        (b"E", True, [FAILED, NO_PORT, CRASH]),
    ],
)
def test_operators_see_what_they_asked_for(least: bytes, shows_handshakes: bool, expected: list[bytes]) -> None:
    # The last line, of a process that died, has no line feed.
    content = b"\n".join([GOAWAY, FAILED, NO_PORT, CRASH])
    shown, reports = relayed(content, least=least, shows_handshakes=shows_handshakes)
    assert shown.splitlines() == expected
    assert [each["reason"] for each in reports] == ["CERTIFICATE_EXPIRED"]


def test_a_flood_from_one_host_is_one_line() -> None:
    _, reports = relayed((FAILED + b"\n") * 60)
    assert sum(each["count"] for each in reports) == 60
    assert len(reports) < 5
    assert reports[-1]["peer"] == "ipv4:127.0.0.1:55814"


def test_hosts_without_number_are_counted_together() -> None:
    tally = Tally()
    for number in range(10_000):
        tally.add(FailedHandshake("NOT_TLS", "ipv4:10.0.0.1:1", f"ipv4:10.{number >> 8}.{number & 255}.1:5"))
    assert len(tally) <= 201
    with pipe() as (reports, reported):
        os.set_blocking(reported, False)
        tally.report_to(reported)
        told = [json.loads(line) for line in os.read(reports, 1 << 20).splitlines()]
    assert sum(each["count"] for each in told) == 10_000
    assert {each["peer"] for each in told if each["count"] > 1} == {""}


def test_reports_that_nobody_takes_are_kept() -> None:
    tally, told = Tally(), Counter[str]()
    with pipe() as (reports, reported):
        os.set_blocking(reported, False)
        with suppress(BlockingIOError):
            while True:
                os.write(reported, b"\n" * 4096)
        tally.add(FailedHandshake("NOT_TLS", "a:1", "ipv4:10.0.0.1:5"))
        tally.report_to(reported)
        assert len(tally) == 1
        os.read(reports, 1 << 20)
        tally.report_to(reported)
        told.update(each["reason"] for each in map(json.loads, filter(None, os.read(reports, 1 << 20).splitlines())))
    assert (len(tally), told) == (0, {"NOT_TLS": 1})


def test_handshakes_are_reported_while_nobody_reads_standard_error() -> None:
    with pipe() as (source, sink), pipe() as (reports, reported), pipe() as (seen, shown):
        thread = threading.Thread(
            target=relay, args=(source, reported, shown), kwargs={"least": b"E", "shows_handshakes": False}
        )
        thread.start()
        for _ in range(3000):
            os.write(sink, NO_PORT + b"\n")
        os.write(sink, FAILED + b"\n")
        assert json.loads(os.read(reports, 4096))["reason"] == "CERTIFICATE_EXPIRED"
        os.close(sink)
        lines = 0
        while lines < 3000:
            lines += os.read(seen, 1 << 16).count(b"\n")
        thread.join()
    assert lines == 3000


def test_what_cannot_be_shown_for_long_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_HELD_BYTES", 10)
    with pipe() as (seen, shown):
        passed = Passed(shown)
        for _ in range(5):
            passed.add(CRASH + b"\n")
        passed.write_all()
        assert os.read(seen, 4096).splitlines() == [CRASH, b"4 lines of gRPC were left out"]
