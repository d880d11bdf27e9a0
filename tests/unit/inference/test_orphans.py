import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from services.inference.orphans import end_orphans
from tests.patience import LONGEST_WAIT_SECONDS


@contextmanager
def running(program: Path) -> Iterator[subprocess.Popen[bytes]]:
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([str(program), "60"]) as process:
        yield process
        process.kill()


def test_only_processes_of_the_folder_are_ended(tmp_path: Path) -> None:
    with ExitStack() as stack:
        orphan = stack.enter_context(running(tmp_path / "backends" / "python" / "stub"))
        removed = stack.enter_context(running(tmp_path / "backends" / "python" / "removed"))
        neighbour = stack.enter_context(running(tmp_path / "backends-of-another" / "stub"))
        (tmp_path / "backends" / "python" / "removed").unlink()
        end_orphans(tmp_path / "backends")
        assert orphan.wait(LONGEST_WAIT_SECONDS) == removed.wait(LONGEST_WAIT_SECONDS) == -signal.SIGKILL
        os.kill(neighbour.pid, 0)
        assert neighbour.poll() is None
