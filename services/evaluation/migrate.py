"""Bring the tables of runs and rankings up to date: ``python -m services.evaluation.migrate --help``."""

import sys

from services.evaluation.settings import EvaluationSettings
from services.evaluation.wiring import MIGRATIONS
from services.runtime.migrate_command import run_migrations

if __name__ == "__main__":
    sys.exit(run_migrations("evaluation", EvaluationSettings, lambda settings: settings.database_url, MIGRATIONS))
