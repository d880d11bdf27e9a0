"""Puts the code runner together."""

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from prometheus_client import CollectorRegistry

from services.code_runner.metrics import CodeRunnerMetrics
from services.code_runner.service import hosted
from services.code_runner.settings import CodeRunnerSettings
from services.runtime.server import HostedService
from services.sandbox.choosing import choose_sandbox
from services.sandbox.contract import Sandbox
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.sandbox.gvisor.sandbox import GvisorSandbox


@asynccontextmanager
async def wire(settings: CodeRunnerSettings, metrics: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    """Yield the service; where programs cannot be contained it is served all the same, and says so."""
    sandbox = _open_sandbox(settings)
    try:
        # What is missing is in the log then before anybody asks; health and every call say it, too.
        with suppress(SandboxUnavailableError, SandboxBusyError):
            await sandbox.describe()
        yield [hosted(sandbox, CodeRunnerMetrics(metrics), waiting=settings.waiting_programs)]
    finally:
        await sandbox.close()


def _open_sandbox(settings: CodeRunnerSettings) -> Sandbox:
    if settings.sandbox == "gvisor":
        return GvisorSandbox(settings.sandbox_limits, settings.sandbox_root, on_spoiled=_stop)
    return choose_sandbox(settings.sandbox, settings.sandbox_limits, settings.sandbox_programs)


def _stop() -> None:
    """Drain and end: whoever started this process starts another one, in a container in which nothing has run."""
    signal.raise_signal(signal.SIGTERM)
