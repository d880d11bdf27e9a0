"""No hostile program reads, writes or reaches anything outside its sandbox, outlives its time or leaves anything."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.sandbox.bubblewrap import BubblewrapSandbox
from services.sandbox.contract import Program, Run, SandboxLimits
from services.sandbox.errors import SandboxBusyError
from tests.integration.sandbox.hostile_programs import BEGINNING, HOSTILE_PROGRAMS, TESTS

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]

LIMITS = SandboxLimits(memory_bytes=128 << 20, files_bytes=8 << 20, processes=16)
# Beyond its time a program may exist for as long as this busy machine takes to notice.
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Aftermath:
    """How each program ended, and what the machine looks like afterwards.

    Attributes:
        runs: by name.
        processes: those that run as the sandboxes' user, or carry the marker.
        folders: what sandboxes left in the folder for temporary files and among the control groups.
        victim_is_alive: whether the process that was to be signalled runs.
        connections: how many came to the port.
    """

    runs: Mapping[str, Run]
    processes: list[str]
    folders: list[Path]
    victim_is_alive: bool
    connections: int


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """Run all programs beside each other in one service's sandboxes, then close it."""
    marker = f"marker{uuid.uuid4().hex}"
    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_text(marker)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    temporary = Path(tempfile.mkdtemp())
    temporary.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALFLEET_SECRET", marker)
        patch.setattr(tempfile, "tempdir", str(temporary))
        before = groups()
        port = server.getsockname()[1]
        known = {"secret": str(secret), "marker": marker, "environment": marker}
        runs = asyncio.run(run_all(known | {"host_process": str(victim.pid), "port": str(port)}))
        left = sorted({*temporary.iterdir(), *(groups() - before)})
        server.settimeout(0)
        connections = 0
        try:
            server.accept()
            connections = 1
        except BlockingIOError:
            pass
        yield Aftermath(runs, processes_with(marker), left, victim.poll() is None, connections)
    victim.kill()
    victim.wait()
    temporary.rmdir()


async def run_all(known: Mapping[str, str]) -> dict[str, Run]:
    """Run every program; the values known are put into those sources that name them."""
    sandbox = BubblewrapSandbox(LIMITS, running=4, ready=4)
    try:

        async def run(source: str, timeout_seconds: float) -> Run:
            program = Program(BEGINNING + source.format_map(known), TESTS, timeout_seconds)
            # Once this machine has had time for it: no program can say that it had none.
            while True:
                with contextlib.suppress(SandboxBusyError):
                    return await sandbox.run(program)

        programs = HOSTILE_PROGRAMS.values()
        ended = await asyncio.gather(*(run(each.source, each.timeout_seconds) for each in programs))
        return dict(zip(HOSTILE_PROGRAMS, ended, strict=True))
    finally:
        await sandbox.close()


def processes_with(marker: str) -> list[str]:
    """Return the command lines of processes of the sandboxes' user or that carry the marker, this one left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            if b"program_runner" in command or marker.encode() in command:
                found.append(command.decode(errors="replace"))
        except OSError:
            continue
    return found


def groups() -> set[Path]:
    """Return the control groups of sandboxes."""
    return {*Path("/sys/fs/cgroup").glob("**/evalfleet-sandbox-*")}


@pytest.mark.parametrize("name", sorted(HOSTILE_PROGRAMS))
def test_a_hostile_program_is_contained(aftermath: Aftermath, name: str) -> None:
    program, run = HOSTILE_PROGRAMS[name], aftermath.runs[name]
    assert run.ending in program.endings, run
    assert run.seconds < program.timeout_seconds + GRACE_SECONDS


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE_PROGRAMS) >= 30


def test_the_machine_is_as_it_was(aftermath: Aftermath) -> None:
    assert aftermath.processes == []
    assert aftermath.folders == []
    assert aftermath.victim_is_alive
    assert aftermath.connections == 0
