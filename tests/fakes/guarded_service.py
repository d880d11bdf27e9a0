"""A safety service that echoes bytes, as a process with everything that stands before a service."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from services.runtime.entry import run_service
from services.runtime.server import HostedService
from services.runtime.settings import ServiceSettings
from tests.unit.runtime.security.serving import hosted


@asynccontextmanager
async def wiring(settings: ServiceSettings, registry: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    yield [hosted()]


if __name__ == "__main__":
    run_service("safety", ServiceSettings, wiring)
