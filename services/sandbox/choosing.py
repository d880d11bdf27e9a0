"""Which sandbox a service runs programs in, by its settings."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Literal

from services.sandbox.bubblewrap import BubblewrapSandbox
from services.sandbox.contract import Program, Run, Sandbox, SandboxDescription, SandboxLimits
from services.sandbox.errors import SandboxUnavailableError

SandboxKind = Literal["bubblewrap", "none"]


class NoSandbox:
    """Runs nothing."""

    async def describe(self) -> SandboxDescription:
        """Refuse.

        Raises:
            SandboxUnavailableError: always.
        """
        raise _none()

    async def run(self, program: Program) -> Run:
        """Refuse.

        Raises:
            SandboxUnavailableError: always.
        """
        raise _none()

    async def close(self) -> None:
        """Do nothing."""


def _none() -> SandboxUnavailableError:
    return SandboxUnavailableError(
        "this service runs no programs: its setting EVALFLEET_SANDBOX is none; set it to bubblewrap, or "
        "EVALFLEET_CODE_RUNNER_TARGET to a code runner"
    )


def choose_sandbox(kind: SandboxKind, limits: SandboxLimits, programs: int | None = None) -> Sandbox:
    """Return the sandbox of that kind; it makes nothing before the first program comes.

    Args:
        kind: its setting.
        limits: what one program may use.
        programs: how many run at once; ``None``: one a core, of those that this service may use up.
    """
    if kind == "none":
        return NoSandbox()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    running = programs or max(1, min(cores or 1, quota_cores()))
    return BubblewrapSandbox(limits, running=running, ready=running + 1)


def quota_cores(mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many whole cores a container's quota allows, at least one; very many where there is none.

    Args:
        mount: where the control groups of this process are mounted, in either version of the kernel's interface.
    """
    for quota_file, period_file in (("cpu.max", ""), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, *rest = (mount / quota_file).read_text().split()
            period = rest[0] if rest else (mount / period_file).read_text()
            if quota not in ("max", "-1"):
                return max(1, int(quota) // int(period))
    return sys.maxsize
