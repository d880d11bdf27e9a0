"""The places that programs have inside a container, on this machine's kernel: how they are made, cleaned and spoiled.

That the kernel is gVisor's is faked here; ``test_gvisor`` has the real one.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.sandbox.contract import Ending, Program, SandboxLimits
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.gvisor import sandbox as gvisor_sandbox
from services.sandbox.gvisor.sandbox import GvisorSandbox
from services.sandbox.process_tree import descendants_of
from services.sandbox.runtime_root import build_runtime_root
from services.sandbox.sandbox_process import SandboxProcess
from services.sandbox.starting import start_sandbox
from tests.integration.sandbox.hostile_programs import BEGINNING
from tests.patience import LONGEST_WAIT_SECONDS, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="gives files to another user, on Linux"),
]
OTHER_USER = 64_907


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python for programs, another user's, as in an image."""
    folder = tmp_path_factory.mktemp("image") / "root"
    build_runtime_root(folder)
    for each, _, files in os.walk(folder):
        for name in ("", *files):
            os.lchown(Path(each) / name, OTHER_USER, OTHER_USER)
    (folder / "tmp").chmod(0o777)
    return folder


@asynccontextmanager
async def opened(root: Path, spoiled: list[bool] | None = None) -> AsyncIterator[GvisorSandbox]:
    def on_spoiled() -> None:
        assert spoiled is not None
        spoiled.append(True)

    limits = SandboxLimits(memory_bytes=128 << 20, files_bytes=8 << 20, processes=16)
    sandbox = GvisorSandbox(limits, root, on_spoiled=on_spoiled, require_kernel=lambda: "fake")
    before = set(descendants_of(os.getpid()))
    try:
        yield sandbox
    finally:
        await sandbox.close()
    assert set(descendants_of(os.getpid())) <= before


async def test_programs_run_one_after_the_other_and_find_nothing_of_the_last(root: Path) -> None:
    leaves = (
        "if os.fork() == 0:\n    os.setsid()\n    while True: write('/tmp/alive')\nwrite('/tmp/x')\nos.mkdir('/tmp/d')"
    )
    alone = "assert os.listdir('/tmp') == [], os.listdir('/tmp')"
    endings = {
        leaves: Ending.PASSED,
        alone: Ending.PASSED,
        "while True: threading.Thread(target=time.sleep, args=(60,)).start()": Ending.PROCESS_LIMIT,
        "kept = []\nwhile True: kept.append(bytearray(1 << 20))": Ending.MEMORY_LIMIT,
        "os.kill(os.getpid(), signal.SIGKILL)": Ending.KILLED,
        "ctypes.string_at(0)": Ending.KILLED,
        "os.chroot('/tmp')": Ending.KILLED,
        "sys.exit(0)": Ending.EXITED_EARLY,
        "os.kill(1, signal.SIGKILL)": Ending.PASSED,
        "socket.socket()": Ending.EXCEPTION,
    }
    async with opened(root) as sandbox:
        runs = await asyncio.gather(
            *(sandbox.run(Program(BEGINNING + each, "", LONGEST_WAIT_SECONDS)) for each in endings)
        )
        assert [each.ending for each in runs] == list(endings.values()), runs
        assert (await sandbox.describe()).programs == 1


async def test_a_cancelled_program_is_gone_before_the_next_one(root: Path) -> None:
    async with opened(root) as sandbox:
        await sandbox.describe()
        endless = asyncio.ensure_future(
            sandbox.run(Program("open('/tmp/begun', 'w')\nwhile True: pass", "", LONGEST_WAIT_SECONDS))
        )
        await until((root / "tmp/begun").exists)
        endless.cancel()
        run = await sandbox.run(Program("import os", "assert os.listdir('/tmp') == []", LONGEST_WAIT_SECONDS))
        assert run.ending is Ending.PASSED, run


async def test_a_place_that_could_not_be_started_ahead_costs_no_program(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [0]

    async def fail(*arguments: Any) -> SandboxProcess:
        failures[0] += 1
        raise SandboxUnavailableError("no memory")

    async with opened(root) as sandbox:
        await sandbox.describe()
        monkeypatch.setattr(gvisor_sandbox, "start_sandbox", fail)
        solved = Program("", "", LONGEST_WAIT_SECONDS)
        # It has a place already; the next one's cannot be started.
        assert (await sandbox.run(solved)).ending is Ending.PASSED
        await until(lambda: failures[0] == 1)
        monkeypatch.setattr(gvisor_sandbox, "start_sandbox", start_sandbox)
        assert (await sandbox.run(solved)).ending is Ending.PASSED


async def test_nothing_is_run_where_something_cannot_be_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled: list[bool] = []
    async with opened(root, spoiled) as sandbox:
        await sandbox.describe()

        def refuse(folder: Path) -> None:
            raise PermissionError("it is somebody else's")

        monkeypatch.setattr(gvisor_sandbox, "remove_leftovers", refuse)
        assert (await sandbox.run(Program("", "", LONGEST_WAIT_SECONDS))).ending is Ending.PASSED
        with pytest.raises(SandboxUnavailableError, match="somebody else's"):
            await sandbox.run(Program("", "", LONGEST_WAIT_SECONDS))
        with pytest.raises(SandboxUnavailableError):
            await sandbox.describe()
        monkeypatch.undo()
    assert spoiled == [True]


async def test_a_root_that_programs_can_write_to_is_refused(root: Path) -> None:
    os.chown(root / "usr", 0, 0)
    try:
        async with opened(root) as sandbox:
            with pytest.raises(SandboxUnavailableError, match=r"/usr (can be written to|is the program's)"):
                await sandbox.run(Program("", "", 1.0))
    finally:
        os.chown(root / "usr", OTHER_USER, OTHER_USER)


async def test_a_folder_without_python_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as sandbox:
        with pytest.raises(SandboxUnavailableError, match="runtime_root"):
            await sandbox.describe()
