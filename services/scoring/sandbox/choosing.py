"""Which sandbox a service runs programs in, by its settings."""

import os
from typing import Literal

from services.scoring.sandbox.bubblewrap import BubblewrapSandbox
from services.scoring.sandbox.contract import Program, Run, Sandbox, SandboxLimits
from services.scoring.sandbox.errors import SandboxUnavailableError

SandboxKind = Literal["bubblewrap", "none"]


class NoSandbox:
    """Runs nothing."""

    async def run(self, program: Program) -> Run:
        """Refuse.

        Raises:
            SandboxUnavailableError: always.
        """
        raise SandboxUnavailableError(
            "this service runs no programs: its setting EVALFLEET_SANDBOX is none; set it to bubblewrap"
        )

    async def close(self) -> None:
        """Do nothing."""


def choose_sandbox(kind: SandboxKind, limits: SandboxLimits, programs: int | None = None) -> Sandbox:
    """Return the sandbox of that kind; it makes nothing before the first program comes.

    Args:
        kind: its setting.
        limits: what one program may use.
        programs: how many run at once; ``None``: one a core.
    """
    if kind == "none":
        return NoSandbox()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    running = programs or cores or 1
    return BubblewrapSandbox(limits, running=running, ready=running + 1)
