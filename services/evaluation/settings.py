"""Settings of the evaluation service."""

from pathlib import Path

from pydantic import Field

from services.evaluation.runs.leases import LeaseTimes
from services.runtime.database import database_url, sqlite_url
from services.runtime.database_settings import DatabaseSettings


class EvaluationSettings(DatabaseSettings):
    """Where the other services and the data are, and how much is in flight at once."""

    generation_target: str = Field("127.0.0.1:8101", description="gRPC target of the generation service.")
    safety_target: str = Field("127.0.0.1:8102", description="gRPC target of the safety service.")
    scoring_target: str = Field("127.0.0.1:8103", description="gRPC target of the scoring service.")
    aggregation_target: str = Field("127.0.0.1:8104", description="gRPC target of the aggregation service.")
    state_dir: Path = Field(Path(".evalfleet"), description="Folder of the list of runs (evaluation.sqlite).")
    runs_url: str = Field(
        "",
        description="The list of runs: sqlite:///PATH, or postgresql://USER:PASSWORD@HOST/DATABASE for several "
        "replicas; empty: evaluation.sqlite in the state folder.",
    )
    data_dir: str = Field("", description="Folders of benchmark data, separated by colons.")
    suite_dirs: str = Field("", description="Further folders with suites/ and tasks/, separated by colons.")
    default_concurrency: int = Field(32, ge=1, le=1024, description="Items in flight of a run that does not say.")
    most_in_flight: int = Field(
        1024,
        ge=256,
        description="Most items asked of one model, or of one other service, at once by all runs of this replica; how "
        "many it really is follows from how fast they are answered.",
    )
    parallel_runs: int = Field(4, ge=1, description="Runs that this replica works on at once; more wait their turn.")
    parallel_rankings: int = Field(
        2, ge=1, description="Rankings that this replica works on at once, beside its runs; more wait their turn."
    )
    caller_budgets: Path | None = Field(
        None, description="YAML file of what each caller may spend in a day; absent: nobody is limited."
    )
    lease_seconds: float = Field(
        8.0, ge=1, le=60, description="A replica that said nothing for so many seconds loses its runs to the others."
    )
    call_timeout_seconds: float = Field(300.0, gt=0, description="Longest call to another service, in seconds.")
    patience_seconds: float = Field(
        300.0, ge=0, description="How long, in seconds, to wait for a service that is away before the run fails."
    )

    @property
    def database_url(self) -> str:
        """Where the list of runs is, with the driver that this service uses.

        Raises:
            StartupError: DATABASE_URL_INVALID.
        """
        return database_url(self.runs_url) if self.runs_url else sqlite_url(self.state_dir / "evaluation.sqlite")

    @property
    def lease_times(self) -> LeaseTimes:
        """A lease is renewed four times as often as it must be."""
        return LeaseTimes(self.lease_seconds, self.lease_seconds / 4, min(1.0, self.lease_seconds / 4))

    @property
    def data_folders(self) -> tuple[Path, ...]:
        """``data_dir`` as paths."""
        return tuple(Path(each) for each in self.data_dir.split(":") if each)

    @property
    def suite_folders(self) -> tuple[Path, ...]:
        """``suite_dirs`` as paths."""
        return tuple(Path(each) for each in self.suite_dirs.split(":") if each)
