"""One process of the fleet: started in a group of its own, watched until healthy, stopped with all it started."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, STDOUT
from contextlib import suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.standalone.plan import PartPlan

_POLL_SECONDS = 0.1
_HEALTH_TIMEOUT_SECONDS = 2.0
_KILL_TIMEOUT_SECONDS = 10.0
_PROC = Path("/proc")


class PartProcess:
    """A started process.

    Attributes:
        plan: how it was started.
        pid: its process id, which is its group's too.
    """

    def __init__(self, plan: PartPlan, process: asyncio.subprocess.Process) -> None:
        self.plan = plan
        self.pid = process.pid
        self._process = process

    @classmethod
    async def start(cls, plan: PartPlan) -> "PartProcess":
        """Start it; what it writes is appended to its log.

        A group of its own keeps the terminal's Ctrl-C from it, since the fleet stops in order, and lets everything
        that it started be ended with it.
        """
        plan.ready_file.unlink(missing_ok=True)
        with plan.log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *plan.command,
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                cwd=plan.folder,
                env=dict(plan.environment),
                start_new_session=True,
            )
        return cls(plan, process)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def wait(self) -> str:
        """Wait for its end, end what it left behind, and return how it ended, for people."""
        code = await self._process.wait()
        await self._end_group()
        return describe_exit(code)

    async def wait_until_healthy(self) -> None:
        """Wait until its health service says SERVING; whoever calls this bounds it and watches for its end."""
        async with grpc.aio.insecure_channel(self.plan.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                # Before it has written its address, somebody else's service could answer there.
                if self.plan.ready_file.exists() and await _is_serving(stub):
                    return
                await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, at_once: asyncio.Event) -> bool:
        """Ask it to end; kill it when that takes too long or ``at_once`` is set. Return whether it ended by itself."""
        if not self.is_running:
            await self._end_group()
            return True
        with suppress(ProcessLookupError):
            self._process.terminate()
        ended = asyncio.ensure_future(self._process.wait())
        hurried = asyncio.ensure_future(at_once.wait())
        await asyncio.wait(
            (ended, hurried), timeout=self.plan.stop_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        hurried.cancel()
        in_time = ended.done()
        if not in_time:
            self._kill_group()
        await ended
        await self._end_group()
        return in_time

    async def _end_group(self) -> None:
        """Kill what the process started and did not end, so that a successor finds its ports free."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_SECONDS):
                while is_group_alive(self.pid):
                    self._kill_group()
                    await asyncio.sleep(_POLL_SECONDS / 2)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


async def _is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_SECONDS)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def is_group_alive(group: int) -> bool:
    """Return whether any process of the process group runs; one that has ended but was not waited for does not."""
    if not _PROC.is_dir():
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    return any(_runs_in_group(each, group) for each in _PROC.iterdir() if each.name.isdigit())


def _runs_in_group(process: Path, group: int) -> bool:
    try:
        # The fields behind the command, which is in brackets and may hold anything: state, parent, group, …
        state, _, found, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return False
    return int(found) == group and state not in "ZX"


def describe_exit(code: int) -> str:
    """Say how a process ended, from its return code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
