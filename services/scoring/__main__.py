"""Run the scoring service: ``python -m services.scoring``."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from services.runtime.entry import run_service
from services.runtime.server import HostedService
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.service import hosted
from services.scoring.settings import ScoringSettings


@asynccontextmanager
async def _wire(settings: ScoringSettings, metrics: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    yield [hosted(ScorerRegistry(builtin_scorers()))]


if __name__ == "__main__":
    run_service("scoring", ScoringSettings, _wire)
