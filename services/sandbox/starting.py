"""Starts sandboxes, whatever they are made of."""

import os
import subprocess
from pathlib import Path

from services.sandbox.cgroups import ControlGroup
from services.sandbox.contract import SandboxLimits
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.sandbox_process import SandboxProcess
from services.sandbox.start_command import StartCommand


async def start_sandbox(
    command: StartCommand, filter_file: Path, group: ControlGroup, limits: SandboxLimits
) -> SandboxProcess:
    """Start a sandbox and wait until it is ready for its program.

    Call it on a thread that lives as long as the sandbox: the kernel ends the sandbox with the thread that started it.

    Raises:
        SandboxUnavailableError: it does not start.
    """
    child, *pipes = _spawn(command, filter_file, group)
    process = SandboxProcess(child, group, limits, command)
    try:
        await process.connect(*pipes)
    except BaseException:
        await process.end()
        raise
    return process


def _spawn(
    command: StartCommand, filter_file: Path, group: ControlGroup
) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """Return the process, and this side's ends of the pipes: for jobs, of reports, of its output."""
    jobs, jobs_fd = os.pipe()
    reports_fd, reports = os.pipe()
    output_fd, output = os.pipe()
    filter_fd = os.open(filter_file, os.O_RDONLY)
    try:
        child = subprocess.Popen(
            command.arguments(group.folders, filter_fd, jobs, reports),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(filter_fd, jobs, reports),
            env={"PATH": os.defpath},
            cwd="/",
        )
    except OSError as error:
        for fd in (jobs_fd, reports_fd, output_fd):
            os.close(fd)
        raise SandboxUnavailableError(f"a sandbox cannot be started: {error}") from error
    finally:
        for fd in (jobs, reports, output, filter_fd):
            os.close(fd)
    return child, jobs_fd, reports_fd, output_fd
