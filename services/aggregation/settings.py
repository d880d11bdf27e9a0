"""Settings of the aggregation service, read from the environment."""

from pathlib import Path

from pydantic import Field

from services.aggregation.retention import PrunePolicy
from services.runtime.database import database_url, sqlite_url
from services.runtime.database_settings import DatabaseSettings


class AggregationSettings(DatabaseSettings):
    """Where the ledger is."""

    port: int = Field(8104, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    state_dir: Path = Field(Path(".evalfleet"), description="Folder of the ledger (ledger.sqlite).")
    ledger_url: str = Field(
        "",
        description="The ledger: sqlite:///PATH, or postgresql://USER:PASSWORD@HOST/DATABASE for several replicas; "
        "empty: ledger.sqlite in the state folder.",
    )

    ledger_keep_runs_days: int = Field(
        0, ge=0, description="Results of runs that got none for so many days are deleted; 0: never."
    )
    ledger_keep_text_days: int = Field(
        0,
        ge=0,
        description="Long prompts, outputs and answers of runs that got no results for so many days are removed, "
        "scores stay; 0: never.",
    )

    @property
    def prune_policy(self) -> PrunePolicy | None:
        """What is taken out regularly; ``None``: nothing."""
        policy = PrunePolicy(
            keep_runs_days=self.ledger_keep_runs_days or None, keep_text_days=self.ledger_keep_text_days or None
        )
        return None if policy == PrunePolicy() else policy

    @property
    def database_url(self) -> str:
        """The ledger's URL with the driver that this service uses.

        Raises:
            StartupError: DATABASE_URL_INVALID.
        """
        return database_url(self.ledger_url) if self.ledger_url else sqlite_url(self.state_dir / "ledger.sqlite")
