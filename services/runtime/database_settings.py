"""Settings of the services that keep a database of their own."""

from typing import Literal

from pydantic import Field

from services.runtime.database import DatabaseUse
from services.runtime.database_engine import PoolLimits
from services.runtime.settings import ServiceSettings


class DatabaseSettings(ServiceSettings):
    """How PostgreSQL is used; a file in the state folder knows none of these."""

    # The ledger's: what moves texts and what prunes hold one each for their locks and work with another.
    database_connections: int = Field(
        15, ge=5, description="PostgreSQL: most connections of this replica; its max_connections bounds those of all."
    )
    database_wait_seconds: float = Field(
        30.0,
        gt=0,
        description="PostgreSQL: how long, in seconds, a statement waits for a connection while all are in use.",
    )
    database_connect_seconds: float = Field(
        10.0,
        gt=0,
        description="PostgreSQL: longest time, in seconds, to open a connection; of several servers, each has its "
        "share of it.",
    )
    database_statement_seconds: float = Field(
        120.0, gt=0, description="PostgreSQL: longest statement in seconds; migrations take as long as they take."
    )
    database_migrations: Literal["run", "wait"] = Field(
        "run",
        description="run: bring the tables up to date at start; wait: let `python -m services.NAME.migrate` do so.",
    )
    database_schema_wait_seconds: float = Field(
        60.0,
        ge=0,
        description="With EVALFLEET_DATABASE_MIGRATIONS=wait: seconds to wait for the migrations; 0: refuse at once.",
    )

    @property
    def database_use(self) -> DatabaseUse:
        """The same, as ``open_database`` takes it."""
        return DatabaseUse(
            limits=PoolLimits(
                connections=self.database_connections,
                wait_seconds=self.database_wait_seconds,
                connect_seconds=self.database_connect_seconds,
                statement_seconds=self.database_statement_seconds,
            ),
            migrates=self.database_migrations == "run",
            schema_wait_seconds=self.database_schema_wait_seconds,
        )
