import json
from pathlib import Path

import pytest

from services.standalone.errors import PartFailedError
from services.standalone.keeper import RestartPolicy
from services.standalone.log_tail import log_tail
from services.standalone.processes import describe_exit


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-99, "was killed by signal 99"),
    ],
)
def test_exits_are_described_for_people(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_the_end_of_a_log_is_shown_without_tracebacks(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    lines = [f"line {number}" for number in range(40)]
    lines += ["Traceback (most recent call last):", '  File "x.py", line 1', "    boom()", "ValueError: boom", "after"]
    log.write_text("\n".join(lines))
    shown = log_tail(log, lines=4).splitlines()
    assert shown == ["line 38", "line 39", "ValueError: boom", "after"]


def test_events_are_shown_as_sentences_and_once(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    events = [
        {"event": "load_failed", "level": "warning", "time": f"t{number}", "service": "safety", "error": "no weights"}
        for number in range(3)
    ]
    events.append({"event": "stopped", "level": "info", "time": "t4", "service": "safety"})
    log.write_text("\n".join(json.dumps(each) for each in events) + "\n[1, 2]\n" + "x" * 1000)
    shown = log_tail(log).splitlines()
    assert shown[:3] == ["load_failed: error no weights", "stopped", "[1, 2]"]
    assert len(shown[3]) == 400


def test_a_log_that_is_large_missing_or_binary_does_no_harm(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "missing") == ""
    log = tmp_path / "x.log"
    log.write_bytes(b"\xff" * 100_000 + b"\nlast")
    assert log_tail(log, lines=1) == "last"


def test_pauses_between_restarts_grow_to_a_bound() -> None:
    policy = RestartPolicy(first_delay_seconds=0.5, longest_delay_seconds=3)
    assert [policy.delay_seconds(deaths) for deaths in range(5)] == [0.5, 0.5, 1.0, 2.0, 3.0]


def test_a_failure_shows_where_its_log_is(tmp_path: Path) -> None:
    error = PartFailedError("safety", "safety ended with exit code 1", tmp_path / "safety.log", "no guard")
    assert str(error) == f"safety ended with exit code 1; the end of {tmp_path}/safety.log:\nno guard"
    assert str(PartFailedError("safety", "x", tmp_path / "a.log", "")) == f"x; its log is {tmp_path}/a.log"
