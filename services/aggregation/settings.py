"""Settings of the aggregation service, read from the environment."""

from pathlib import Path

from pydantic import Field
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from services.aggregation.errors import LedgerUrlError
from services.runtime.database import sqlite_url
from services.runtime.settings import ServiceSettings


class AggregationSettings(ServiceSettings):
    """Where the ledger is."""

    port: int = Field(8104, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    state_dir: Path = Field(Path(".evalfleet"), description="Folder of the ledger (ledger.sqlite).")
    ledger_url: str = Field(
        "", description="The ledger as an SQLAlchemy URL, sqlite:///PATH; empty: ledger.sqlite in the state folder."
    )

    @property
    def database_url(self) -> str:
        """The ledger's URL with the driver that this service uses.

        Raises:
            LedgerUrlError: it names no SQLite file.
        """
        if not self.ledger_url:
            return sqlite_url(self.state_dir / "ledger.sqlite")
        try:
            url = make_url(self.ledger_url)
        except ArgumentError:
            url = None
        if url is None or url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
            raise LedgerUrlError(
                f"EVALFLEET_LEDGER_URL={self.ledger_url!r} names no SQLite file; write sqlite:///folder/ledger.sqlite, "
                "or leave it out to keep the ledger in EVALFLEET_STATE_DIR"
            )
        return url.set(drivername="sqlite+aiosqlite").render_as_string(hide_password=False)
