"""The sandbox as a part of a service: refusal, cancellation, limits without control groups."""

import asyncio
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from services.sandbox import bubblewrap, sandbox_process
from services.sandbox.bubblewrap import BubblewrapSandbox
from services.sandbox.cgroups import ControlGroups
from services.sandbox.contract import Ending, Program, SandboxLimits
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.process_tree import ProcessorTime, children_of, processor_time_below
from tests.patience import LONGEST_WAIT_SECONDS, until

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]

FORK_BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
MEMORY_HOGS = (
    "import os, time\nfor _ in range(6):\n    if os.fork() == 0: break\nkept = b'x' * (40 << 20)\ntime.sleep(600)"
)
# It ignores the ends of its children, so that the kernel adds their time to nobody's.
HIDES_ITS_TIME = (
    "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n    if os.fork() == 0:\n"
    "        for _ in range(100_000): pass\n        os._exit(0)\n    time.sleep(0.001)"
)
MANY_FILES = "import os\nnumber = 0\nwhile True:\n    os.mkdir(f'/tmp/{number}')\n    number += 1"


async def test_limits_hold_where_there_are_no_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "ControlGroups", lambda name: ControlGroups(name, tmp_path))
    limits = SandboxLimits(memory_bytes=128 << 20, files_bytes=8 << 20, processes=16)
    sandbox = BubblewrapSandbox(limits, running=2, ready=1)
    try:
        runs = await asyncio.gather(
            *(sandbox.run(Program(each, "", LONGEST_WAIT_SECONDS)) for each in (FORK_BOMB, MEMORY_HOGS, MANY_FILES)),
            sandbox.run(Program("answer = 42", "assert answer == 42", LONGEST_WAIT_SECONDS)),
        )
        limit = Ending.MEMORY_LIMIT
        assert [run.ending for run in runs] == [Ending.PROCESS_LIMIT, limit, limit, Ending.PASSED]
    finally:
        await sandbox.close()


@pytest.mark.parametrize("has_groups", [True, False])
async def test_what_a_program_hides_of_its_time_is_not_taken_for_time_that_others_took(
    has_groups: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_groups:
        monkeypatch.setattr(bubblewrap, "ControlGroups", lambda name: ControlGroups(name, tmp_path))
    elif not os.access("/sys/fs/cgroup/cpuacct", os.W_OK):
        pytest.skip("version 1 of control groups cannot be written here")
    sandbox = BubblewrapSandbox(SandboxLimits(), running=1, ready=0)

    async def until_told(
        tasks: Collection[asyncio.Future[Any]], seconds: float, told: Callable[[], ProcessorTime]
    ) -> None:
        before = told()
        process = told.__self__._first_process  # type: ignore[attr-defined]

        def has_counted() -> bool:
            if has_groups:
                return told().ran - before.ran > 0.3
            # All have waited for a core, if only for a moment: of one that hides its children's time it counts nothing.
            return any(processor_time_below(process).waits.values()) and not told().waits

        await until(has_counted)

    try:
        await sandbox.run(Program("", "", LONGEST_WAIT_SECONDS))
        monkeypatch.setattr(sandbox_process, "wait_own_time", until_told)
        run = await sandbox.run(Program(HIDES_ITS_TIME, "", LONGEST_WAIT_SECONDS))
        assert run.ending is Ending.TIMED_OUT
    finally:
        await sandbox.close()


async def test_a_cancelled_program_is_ended_and_the_next_one_runs() -> None:
    sandbox = BubblewrapSandbox(SandboxLimits(), running=1, ready=1)
    try:
        await sandbox.run(Program("", "", LONGEST_WAIT_SECONDS))
        endless = asyncio.ensure_future(sandbox.run(Program("while True: pass", "", 600.0)))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(sandbox.run(Program("", "", LONGEST_WAIT_SECONDS)))
        await asyncio.sleep(0.1)
        endless.cancel()
        assert (await waiting).ending is Ending.PASSED
        assert endless.cancelled()
    finally:
        await sandbox.close()
    assert not [pid for pid in children_of(os.getpid()) if b"bwrap" in command_line(pid)]


def command_line(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


async def test_without_bubblewrap_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox = BubblewrapSandbox(SandboxLimits(), running=1, ready=1)
    with pytest.raises(SandboxUnavailableError, match="apt-get install bubblewrap"):
        await sandbox.run(Program("", "", 1.0))
    await sandbox.close()


async def test_a_sandbox_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bwrap"
    tool.write_text("#!/bin/sh\necho 'bwrap: no namespaces here' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox = BubblewrapSandbox(SandboxLimits(), running=1, ready=1)
    for _ in range(2):
        with pytest.raises(SandboxUnavailableError) as caught:
            await sandbox.run(Program("", "", 1.0))
        assert caught.value.reason == "SANDBOX_UNAVAILABLE"
    await sandbox.close()
