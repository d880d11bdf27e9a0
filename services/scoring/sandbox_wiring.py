"""Opens what programs are run in."""

from contextlib import AsyncExitStack
from typing import Final

from evalfleet.code_runner.v1 import code_runner_pb2
from prometheus_client import CollectorRegistry

from services.runtime.channels import open_channel
from services.runtime.security.certificates import fleet_certificates
from services.sandbox.choosing import choose_sandbox
from services.sandbox.contract import Sandbox
from services.scoring.remote_sandbox import RemoteSandbox
from services.scoring.settings import ScoringSettings

_REMOTE_PROGRAMS: Final = 16
_CODE_RUNNER: Final = code_runner_pb2.DESCRIPTOR.services_by_name["CodeRunnerService"].full_name


async def open_sandbox(settings: ScoringSettings, metrics: CollectorRegistry, stack: AsyncExitStack) -> Sandbox:
    """Return the code runners' sandbox where the settings name them, else one of this machine's own.

    What it opens is closed with ``stack``.
    """
    if not settings.code_runner_target:
        sandbox = choose_sandbox(settings.sandbox, settings.sandbox_limits, settings.sandbox_programs)
        stack.push_async_callback(sandbox.close)
        return sandbox
    # One that cannot contain programs is not asked: others may.
    channel = open_channel(
        settings.code_runner_target, health_service=_CODE_RUNNER, certificates=fleet_certificates(settings)
    )
    await stack.enter_async_context(channel)
    programs = settings.sandbox_programs or _REMOTE_PROGRAMS
    return RemoteSandbox(channel, target=settings.code_runner_target, programs=programs, metrics=metrics)
