"""Run the aggregation service: ``python -m services.aggregation``."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from services.aggregation.background_moving import background_moving
from services.aggregation.ledger import open_ledger
from services.aggregation.regular_pruning import regular_pruning
from services.aggregation.service import hosted
from services.aggregation.settings import AggregationSettings
from services.runtime.entry import run_service
from services.runtime.server import HostedService


@asynccontextmanager
async def _wire(settings: AggregationSettings, metrics: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    async with (
        open_ledger(settings.database_url, settings.database_use) as ledger,
        background_moving(ledger),
        regular_pruning(ledger, settings.prune_policy),
    ):
        yield [hosted(ledger, max_message_bytes=settings.max_message_bytes)]


if __name__ == "__main__":
    run_service("aggregation", AggregationSettings, _wire)
