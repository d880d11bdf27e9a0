"""Settings of the scoring service, read from the environment."""

from pydantic import Field

from services.runtime.settings import ServiceSettings
from services.scoring.sandbox.choosing import SandboxKind
from services.scoring.sandbox.contract import SandboxLimits


class ScoringSettings(ServiceSettings):
    """How much the scoring service takes on, and what heavy scorers and programs that models wrote may use."""

    port: int = Field(8103, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    max_held_requests: int = Field(
        65_536, ge=1, description="Requests in hand, of all callers; who asks for more is told to come back later."
    )
    max_held_requests_per_caller: int = Field(32_768, ge=1, description="Requests in hand of one caller.")
    max_stream_items: int = Field(
        256, ge=1, description="Items of one stream at once; while there are so many, no more are read."
    )
    stream_item_timeout_seconds: float = Field(300.0, gt=0, description="Longest time of one item of a stream.")
    pool_workers: int = Field(
        2, ge=1, le=256, description="Processes for heavy scorers; started when such a scorer is first asked."
    )
    pool_output_timeout_seconds: float = Field(
        30.0, gt=0, description="Longest time of a heavy scorer over one output; then its process is killed."
    )
    pool_worker_memory_bytes: int = Field(
        4 * 1024**3, ge=256 * 1024**2, description="Address space of each process for heavy scorers."
    )
    sandbox: SandboxKind = Field(
        "bubblewrap", description="What programs run in: bubblewrap, or none, which refuses to run them."
    )
    sandbox_programs: int | None = Field(
        None, ge=1, le=256, description="Programs that run at once; absent: one for each core."
    )
    sandbox_memory_bytes: int = Field(
        512 << 20, ge=64 << 20, description="Memory of one program with all its processes and files, in bytes."
    )
    sandbox_files_bytes: int = Field(
        32 << 20, ge=1 << 20, description="Files that one program may write, in bytes; they lie in memory."
    )
    sandbox_processes: int = Field(
        32, ge=2, le=1024, description="Processes and threads that one program may have at once."
    )

    @property
    def sandbox_limits(self) -> SandboxLimits:
        """What one program may use."""
        return SandboxLimits(
            memory_bytes=self.sandbox_memory_bytes,
            files_bytes=self.sandbox_files_bytes,
            processes=self.sandbox_processes,
        )
