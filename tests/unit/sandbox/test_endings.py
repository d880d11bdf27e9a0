"""What a program's end is called."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.cgroups import LimitHits
from services.sandbox.contract import Ending, SandboxLimits
from services.sandbox.endings import Exited, Report, Stopped, Told, name_ending

LIMITS = SandboxLimits()
SECRET = "5ec7e7"


def named(what: Report | Exited | Stopped, memory: int = 0, processes: int = 0) -> Ending:
    return name_ending(Told(what, LimitHits(memory, processes), ""), LIMITS)[0]


@given(st.binary(max_size=80))
def test_no_line_without_the_secret_passes(line: bytes) -> None:
    assert Report.parse(line, SECRET).ending is not Ending.PASSED
    assert Report.parse(b"ended passed " + line, SECRET).ending is not Ending.PASSED


def test_what_the_runner_says_is_taken() -> None:
    assert Report.parse(b"ended passed 5ec7e7 \n", SECRET) == Report(Ending.PASSED, "")
    assert Report.parse(b"ended wrong - AssertionError: 1 != 2\n", SECRET).text == "AssertionError: 1 != 2"
    assert Report.parse(b"ended killed - \n", SECRET).ending is Ending.FORGED


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (0, Ending.EXITED_EARLY),
        (1, Ending.EXITED_EARLY),
        (128 + signal.SIGSYS, Ending.KILLED),
        (128 + signal.SIGSEGV, Ending.KILLED),
        (128 + signal.SIGXCPU, Ending.TIMED_OUT),
        (255, Ending.KILLED),
    ],
)
def test_exit_statuses_are_read_as_bubblewrap_gives_them(status: int, ending: Ending) -> None:
    assert named(Exited(status)) is ending


def test_a_limit_that_was_hit_explains_an_end_that_it_may_have_caused() -> None:
    assert named(Exited(128 + signal.SIGKILL), memory=1) is Ending.MEMORY_LIMIT
    assert named(Stopped(Ending.TIMED_OUT), processes=9) is Ending.PROCESS_LIMIT
    assert named(Report(Ending.EXCEPTION, "BlockingIOError"), processes=1) is Ending.PROCESS_LIMIT
    for ending in (Ending.PASSED, Ending.WRONG, Ending.SYNTAX_ERROR, Ending.FORGED):
        assert named(Report(ending, ""), memory=1, processes=1) is ending
