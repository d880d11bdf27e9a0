"""PostgreSQL and Redis behind every fleet that tests start: what production has instead of files."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.standalone.postgres_server import running_postgres
from services.standalone.testing import RunningFleet
from tests.fakes.redis_server import running_redis

_DATABASES = ("EVALFLEET_LEDGER_URL", "EVALFLEET_RUNS_URL")
_HAS_LEDGER = "SELECT 1 AS found FROM information_schema.tables WHERE table_schema = 'aggregation' LIMIT 1"
_CACHES = ("EVALFLEET_CACHE_URL", "EVALFLEET_VERDICT_CACHE_URL", "EVALFLEET_JUDGE_CACHE_URL")


@contextmanager
def production_stores(folder: Path) -> Iterator[None]:
    """Start both servers, and give each fleet a database of its own in each, the same if it is started again.

    Args:
        folder: of Redis's files.
    """
    with running_postgres() as postgres, running_redis(folder) as redis:
        if postgres is None:
            pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
        numbers = itertools.count()
        known: dict[Path, Mapping[str, str]] = {}

        def settings(state_dir: Path) -> Mapping[str, str]:
            if state_dir not in known:
                database, cache = postgres.new_database(), redis.url.removesuffix("0") + str(next(numbers))
                known[state_dir] = {**dict.fromkeys(_DATABASES, database), **dict.fromkeys(_CACHES, cache)}
            return known[state_dir]

        RunningFleet.store_settings = settings
        try:
            yield
        finally:
            RunningFleet.store_settings = None
        ledgers = [postgres.query(each[_DATABASES[0]], _HAS_LEDGER) for each in known.values()]
        assert any(ledgers) or not known, "the fleets kept their results elsewhere"
