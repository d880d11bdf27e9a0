"""Opens what programs are run in."""

from contextlib import AsyncExitStack
from typing import Final

from prometheus_client import CollectorRegistry

from services.runtime.channels import open_channel
from services.sandbox.choosing import choose_sandbox
from services.sandbox.contract import Sandbox
from services.scoring.remote_sandbox import RemoteSandbox
from services.scoring.settings import ScoringSettings

_REMOTE_PROGRAMS: Final = 16


async def open_sandbox(settings: ScoringSettings, metrics: CollectorRegistry, stack: AsyncExitStack) -> Sandbox:
    """Return the code runners' sandbox where the settings name them, else one of this machine's own.

    What it opens is closed with ``stack``.
    """
    if not settings.code_runner_target:
        sandbox = choose_sandbox(settings.sandbox, settings.sandbox_limits, settings.sandbox_programs)
        stack.push_async_callback(sandbox.close)
        return sandbox
    channel = await stack.enter_async_context(open_channel(settings.code_runner_target))
    programs = settings.sandbox_programs or _REMOTE_PROGRAMS
    return RemoteSandbox(channel, target=settings.code_runner_target, programs=programs, metrics=metrics)
