"""Bring the ledger's tables up to date: ``python -m services.aggregation.migrate --help``."""

import sys

from services.aggregation.ledger import MIGRATIONS
from services.aggregation.settings import AggregationSettings
from services.runtime.migrate_command import run_migrations

if __name__ == "__main__":
    sys.exit(run_migrations("aggregation", AggregationSettings, lambda settings: settings.database_url, MIGRATIONS))
