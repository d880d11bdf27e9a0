"""Settings of the scoring service, read from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from services.sandbox.settings import SandboxSettings


class ScoringSettings(SandboxSettings):
    """How much the scoring service takes on, what heavy scorers and programs of models may use, and who judges."""

    port: int = Field(8103, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    max_held_requests: int = Field(
        65_536, ge=1, description="Requests in hand, of all callers; who asks for more is told to come back later."
    )
    max_held_requests_per_caller: int = Field(32_768, ge=1, description="Requests in hand of one caller.")
    max_held_bytes: int = Field(
        256 << 20, ge=1, description="Bytes of the requests in hand, of all callers, as they were sent."
    )
    max_held_bytes_per_caller: int = Field(128 << 20, ge=1, description="Bytes of the requests in hand of one caller.")
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
    sandbox: Literal["bubblewrap", "none"] = Field(
        "bubblewrap", description="What programs run in: bubblewrap, or none, which refuses to run them."
    )
    code_runner_target: str = Field(
        "",
        description="gRPC target of code runners that run programs instead of a sandbox here; their settings are in "
        "force then, and EVALFLEET_SANDBOX_PROGRAMS (16) is how many programs they are given at once.",
    )
    triton_target: str = Field(
        "127.0.0.1:8001", description="host:port of Triton's gRPC service, whose encoder compares what texts mean."
    )
    triton_key_file: Path | None = Field(
        None, description="File with Triton's model-control key; without one, the encoder must be loaded already."
    )
    encoder_path: Path | None = Field(
        None,
        description="Folder of the public encoder all-MiniLM-L6-v2; default: the offline package, then the hub. "
        "Triton must see it under the same path.",
    )
    similarity_encoder_path: Path | None = Field(
        None, description="Folder of another encoder for semantic_similarity, likewise; default: the public one."
    )
    encoder_max_tokens: int = Field(
        256, ge=8, description="Longest text that the sentence encoder reads at once; longer ones in windows."
    )
    encoder_timeout_seconds: float = Field(120.0, gt=0, description="Longest request to the sentence encoder.")
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
    def judges(self) -> tuple[str, ...]:
        """``judge_models`` one by one."""
        return tuple(each.strip() for each in self.judge_models.split(",") if each.strip())

    @property
    def rubric_folders(self) -> tuple[Path, ...]:
        """``rubric_dirs`` as paths."""
        return tuple(Path(each) for each in self.rubric_dirs.split(":") if each)
