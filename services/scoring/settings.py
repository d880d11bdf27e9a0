"""Settings of the scoring service, read from the environment."""

from pathlib import Path

from pydantic import Field

from services.runtime.settings import ServiceSettings
from services.scoring.sandbox.choosing import SandboxKind
from services.scoring.sandbox.contract import SandboxLimits


class ScoringSettings(ServiceSettings):
    """How much the scoring service takes on, what heavy scorers and programs of models may use, and who judges."""

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
    generation_target: str = Field(
        "127.0.0.1:8101", description="gRPC target of the generation service, whose models judge for llm_judge."
    )
    judge_models: str = Field(
        "", description="Models that judge where a request names none, separated by commas: models/judge."
    )
    judge_max_concurrent: int = Field(64, ge=1, description="Questions that are with judges at once.")
    judge_timeout_seconds: float = Field(300.0, gt=0, description="Longest request to a judge, in seconds.")
    rubric_dirs: str = Field("", description="Further folders with rubrics (*.yaml), separated by colons.")
    state_dir: Path = Field(Path(".evalfleet/scoring"), description="Folder of the cache of judges' answers.")
    judge_cache_url: str = Field(
        "",
        description="Where judges' answers are kept: sqlite:///PATH, redis://HOST:PORT/DATABASE, off; "
        "default: judged.sqlite3 in the state folder.",
    )
    judge_cache_max_bytes: int = Field(
        512 * 1024**2, ge=1024**2, description="Bound of an SQLite cache in bytes; the least recently used go first."
    )
    judge_cache_lifetime_seconds: float = Field(
        14 * 86_400.0, gt=0, description="Seconds after its last use that Redis keeps an entry."
    )
    judge_cache_timeout_seconds: float = Field(
        0.5, gt=0, description="Longest operation of Redis, in seconds; then the judge is asked."
    )
    engine_revision: str = Field(
        "", description="What of the engines this process cannot see, e.g. the digest of Triton's image."
    )

    @property
    def sandbox_limits(self) -> SandboxLimits:
        """What one program may use."""
        return SandboxLimits(
            memory_bytes=self.sandbox_memory_bytes,
            files_bytes=self.sandbox_files_bytes,
            processes=self.sandbox_processes,
        )

    @property
    def judges(self) -> tuple[str, ...]:
        """``judge_models`` one by one."""
        return tuple(each.strip() for each in self.judge_models.split(",") if each.strip())

    @property
    def rubric_folders(self) -> tuple[Path, ...]:
        """``rubric_dirs`` as paths."""
        return tuple(Path(each) for each in self.rubric_dirs.split(":") if each)
