"""Programs in a container under gVisor: the real kernel, a user without rights, a root that cannot be written to."""

import asyncio
import json
import os
import shutil
import sys
import sysconfig
import uuid
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.channels import open_channel
from services.runtime.free_ports import free_port
from services.sandbox.contract import Ending, Program
from services.sandbox.runtime_root import build_runtime_root
from services.scoring.remote_sandbox import RemoteSandbox
from tests.integration.sandbox.hostile_programs import BEGINNING, HOSTILE_PROGRAMS, TESTS
from tests.patience import LONGEST_WAIT_SECONDS

RUNSC = shutil.which("runsc") or ""
# The environment's own interpreter may lie in a folder that only its owner may enter.
PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not RUNSC or os.geteuid() != 0, reason="needs gVisor (apt-get install runsc), and root to start it"
    ),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"needs a {PYTHON} that every user may start"),
]
REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGES = Path(sysconfig.get_path("purelib"))
USER = 64_908
# Of all hostile programs those that need nothing of what only Linux has, such as a /proc to look into.
HOSTILE = ("thread_bomb", "shared_memory", "files_outside", "sockets", "daemon", "finds_files")
KNOWN = {"secret": "/etc/hostname", "marker": "marker", "environment": "EVALFLEET", "host_process": "1", "port": "1"}


def specification(root: Path, variables: Mapping[str, str]) -> dict[str, object]:
    """Return what runsc is told: as in the pod, nothing can be written to but two folders, and there are no rights."""
    packages = Path("/srv") / PACKAGES.relative_to(REPOSITORY) if PACKAGES.is_relative_to(REPOSITORY) else PACKAGES
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": f"/srv:/srv/clients/python:{packages}",
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": [str(PYTHON), "-m", "services.code_runner"],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "capabilities": {each: [] for each in ("bounding", "effective", "inheritable", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": "/", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
            {"destination": "/srv", "type": "bind", "source": str(REPOSITORY), "options": ["ro"]},
            {"destination": "/mnt", "type": "bind", "source": str(root), "options": ["ro"]},
            {"destination": "/mnt/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0777", "size=64m"]},
        ],
        "linux": {"namespaces": [{"type": each} for each in ("pid", "ipc", "uts", "mount")]},
    }


@asynccontextmanager
async def container(folder: Path) -> AsyncIterator[str]:
    """Run a code runner under gVisor, and yield its address."""
    port = free_port("127.0.0.1")
    variables = {
        "EVALFLEET_PORT": str(port),
        "EVALFLEET_SANDBOX": "gvisor",
        "EVALFLEET_SANDBOX_ROOT": "/mnt",
        "EVALFLEET_SANDBOX_MEMORY_BYTES": str(128 << 20),
        "EVALFLEET_SANDBOX_FILES_BYTES": str(8 << 20),
        "EVALFLEET_SANDBOX_PROCESSES": "16",
        "EVALFLEET_LOG_FORMAT": "json",
    }
    await asyncio.to_thread(build_runtime_root, folder / "root")
    (folder / "config.json").write_text(json.dumps(specification(folder / "root", variables)))
    name, runsc = f"evalfleet-{uuid.uuid4().hex}", (RUNSC, "--root", str(folder / "state"), "--ignore-cgroups")
    process = await asyncio.create_subprocess_exec(
        *(*runsc, "--network=host", "run", "-bundle", str(folder), name), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            async for line in process.stdout:
                said += line
                if b'"event": "serving"' in line:
                    break
            else:
                raise AssertionError(said.decode())
        reading = asyncio.ensure_future(process.stdout.read())
        yield f"127.0.0.1:{port}"
        stop = await asyncio.create_subprocess_exec(*runsc, "kill", name, "TERM")
        await stop.wait()
        assert await asyncio.wait_for(process.wait(), LONGEST_WAIT_SECONDS) == 0
        await reading
    finally:
        end = await asyncio.create_subprocess_exec(*runsc, "delete", "-force", name, stdout=DEVNULL, stderr=DEVNULL)
        await end.wait()
        await process.wait()


async def can_start_here(folder: Path) -> bool:
    """Whether gVisor works at all: some containers allow neither ptrace nor KVM."""
    probe = (RUNSC, "--root", str(folder / "probe"), "--ignore-cgroups", "--network=none", "do", "true")
    process = await asyncio.create_subprocess_exec(*probe, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    return await process.wait() == 0


# A program takes about a second in such a place, and others use the machine.
@pytest.mark.timeout(400)
async def test_programs_are_contained_in_a_container_of_gvisors(tmp_path: Path) -> None:
    if not await can_start_here(tmp_path):
        pytest.skip("gVisor cannot start containers here")
    async with container(tmp_path) as address, open_channel(address) as channel:
        sandbox = RemoteSandbox(channel, target=address, programs=2, metrics=CollectorRegistry())
        assert (await sandbox.describe()).boundary == "gvisor"
        # Two at once, which wait for each other.
        solved = Program("def f(): return 42", "assert f() == 42", LONGEST_WAIT_SECONDS)
        both = await asyncio.gather(sandbox.run(solved), sandbox.run(solved))
        assert [each.ending for each in both] == [Ending.PASSED] * 2
        closed = (
            "import os\nos.makedirs('/tmp/a/b/c')\nfor each in ('/tmp/a/b/c', '/tmp/a/b', '/tmp/a'): os.chmod(each, 0)"
        )
        assert (await sandbox.run(Program(closed, "", LONGEST_WAIT_SECONDS))).ending is Ending.PASSED
        for name in HOSTILE:
            hostile = HOSTILE_PROGRAMS[name]
            source = BEGINNING + hostile.source.format_map(KNOWN)
            run = await sandbox.run(Program(source, TESTS, hostile.timeout_seconds))
            assert run.ending in hostile.endings, (name, run)
