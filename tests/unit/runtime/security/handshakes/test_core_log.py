"""What gRPC's core logs reaches an operator however its process ends, and the process never waits for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import LONGEST_WAIT_SECONDS

ROOT = Path(__file__).parents[5]
BEGIN = """
import ctypes, os, select, signal, sys
from services.runtime.security.handshakes.core_log import CoreLog, WishedLog

log = CoreLog(WishedLog("", "ERROR"))
libc = ctypes.CDLL(None)

def core_says(text):
    libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr"))

def wait_for_end_of_relay():
    select.select([log.reports], [], [])
    assert os.read(log.reports, 1) == b""

"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc lets its stderr be set")


def run(script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script to its end, and to that of everybody who has its standard error."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_WAIT_SECONDS, env=dict(os.environ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("log.close()", 0),
        ("", 0),
        ("sys.exit(1)", 1),
        ("os._exit(3)", 3),
        ("os.abort()", -6),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(0, signal.SIGTERM)", -15),
    ],
)
def test_last_words_get_out(ending: str, code: int) -> None:
    # In a group of its own, to which a supervisor's signal goes.
    ended = run(f"os.setpgid(0, 0)\ncore_says(b'F: the last words\\n')\n{ending}")
    assert (ended.returncode, ended.stderr) == (code, "F: the last words\n")


def test_crash_reports_and_programs_that_it_starts_write_where_they_did() -> None:
    ended = run(
        "log._relay.kill()\nwait_for_end_of_relay()\nimport subprocess\n"
        "subprocess.run([sys.executable, '-c', 'import sys; sys.exit(\"a child\")'])\n"
        "core_says(b'nobody hears that\\n')\nlog.end_input()\ncore_says(b'the core\\n')\nraise ValueError('a bug')"
    )
    assert ended.stderr.splitlines()[:2] == ["a child", "the core"]
    assert ended.stderr.splitlines()[-1] == "ValueError: a bug"


def test_nobody_waits_for_a_relay_that_hangs() -> None:
    ended = run(
        "log._relay.send_signal(signal.SIGSTOP)\n"
        "assert not log.has_lost()\n"
        "for _ in range(3000): core_says(b'E' * 1000 + b'\\n')\n"
        "print('went on', log.has_lost(), log.has_lost(), flush=True)\n"
        "log._relay.send_signal(signal.SIGCONT)\nlog.close()"
    )
    assert (ended.returncode, ended.stdout) == (0, "went on True False\n")
    assert set(ended.stderr) == {"E", "\n"}
