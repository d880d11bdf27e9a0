"""Settings of the generation service."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from services.generation.foreign.target import TARGET_RULE, is_target
from services.generation.pool.targets import TritonTargets
from services.inference.contract import DEFAULT_BOUNDS, EngineBounds
from services.runtime.settings import ServiceSettings


class GenerationSettings(ServiceSettings):
    """Where Triton, the checkpoints and the state are, and how long and how much at once."""

    port: int = Field(8101, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    triton_target: str = Field(
        "127.0.0.1:8001",
        description="host:port of Triton's gRPC service, several separated by commas; each address of a name is one of "
        "the Tritons that requests are spread over.",
    )
    triton_lookup_seconds: float = Field(
        5.0, gt=0, description="Seconds between two lookups of the names in triton_target."
    )
    triton_key_file: Path | None = Field(
        None, description="File with Triton's model-control key; without one, loading is refused by a guarded Triton."
    )
    state_dir: Path = Field(Path(".evalfleet"), description="Folder of the model registry (models.sqlite3).")
    checkpoint_roots: str = Field(
        "", description="Folders below which checkpoints may lie, separated by colons; none: nothing can be registered."
    )
    auto_dtype: Literal["float32", "checkpoint"] = Field(
        "float32", description="What dtype auto means: float32 (for CPUs), or the number type of the checkpoint (GPUs)."
    )
    auto_engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="What engine auto means: transformers, or vllm (GPUs; on CPUs after `make vllm`)."
    )
    max_num_seqs: int = Field(
        DEFAULT_BOUNDS.max_num_seqs, ge=1, description="Sequences that an engine generates together, per model."
    )
    kv_cache_gib: float = Field(
        DEFAULT_BOUNDS.kv_cache_gib,
        ge=0,
        description="Keys and values of a model's running sequences, in GiB; one sequence is always let in.",
    )
    prefix_cache_gib: float = Field(
        DEFAULT_BOUNDS.prefix_cache_gib, ge=0, description="Keys and values of a model's shared prefixes, in GiB."
    )

    cache_url: str = Field(
        "",
        description="Where answers are kept: sqlite:///PATH, redis://HOST:PORT/DATABASE (or rediss://, unix://), off; "
        "default: answers.sqlite3 in the state folder.",
    )
    cache_max_bytes: int = Field(
        2 * 1024**3, ge=64 * 1024, description="Bound of an SQLite cache in bytes; the least recently used go first."
    )
    cache_lifetime_seconds: float = Field(
        14 * 86_400.0, gt=0, description="Seconds after its last use that Redis keeps an answer."
    )
    cache_timeout_seconds: float = Field(
        0.5, gt=0, description="Longest operation of Redis, in seconds; then the answer is computed."
    )
    engine_revision: str = Field(
        "",
        description="What of the engines this process cannot see, e.g. the digest of Triton's image; a new value makes "
        "all kept answers unused.",
    )
    price_table: Path | None = Field(
        None, description="JSON file of prices by model and engine; default: everything is free."
    )

    checkpoint_protocols: str = Field(
        "",
        description="Where else checkpoints may come from, separated by commas: protocols of fsspec (s3, gs, …) "
        "and hub. Folders below checkpoint_roots, also as file:// URLs, always may.",
    )
    download_dir: Path | None = Field(
        None,
        description="Folder of fetched checkpoints, which the inference server must see at the same path; default: "
        "downloads in state_dir.",
    )
    download_bytes: int = Field(
        50 << 30, ge=1, description="Bound on fetched checkpoints; the least recently used ones are deleted."
    )

    foreign_tritons: str = Field(
        "",
        description="Tritons of other people whose models may be registered: host:port, separated by commas; none: "
        "no foreign model can be registered.",
    )

    max_engine_requests: int = Field(
        128, ge=1, description="Requests at each Triton that takes requests, of all calls together."
    )
    max_engine_requests_per_call: int = Field(
        32, ge=1, description="Of those, how many samples or batch items of one call, for each Triton."
    )
    max_queued_requests: int = Field(
        8192, ge=0, description="Requests that wait for a place at a Triton; more are told to come back later."
    )
    max_queued_requests_per_caller: int = Field(
        4096, ge=0, description="Of those, how many of one caller, as it names itself in metadata evalfleet-caller."
    )
    aging_seconds: float = Field(
        10.0,
        ge=0,
        description="A priority whose oldest request waits longer gets every 16th place before higher ones.",
    )
    engine_request_timeout_seconds: float = Field(
        600.0, gt=0, description="Longest single request to Triton, in seconds, whatever the caller's deadline."
    )
    max_stream_items: int = Field(
        64, ge=1, description="Items of one bulk stream at once; while there are so many, no more are read."
    )
    stream_item_timeout_seconds: float = Field(
        600.0, gt=0, description="Longest time of one item of a bulk stream, in seconds."
    )
    concurrent_loads: int = Field(2, ge=1, description="Checkpoints loaded at once.")
    load_timeout_seconds: float = Field(600.0, gt=0, description="Longest load of one checkpoint, in seconds.")
    create_wait_seconds: float = Field(
        10.0, ge=0, description="CreateModel returns a model that is still LOADING after this many seconds."
    )
    ready_wait_seconds: float = Field(
        30.0, ge=0, description="Longest that a request waits for its model to be loaded again, in seconds."
    )
    model_memory_bytes: int | None = Field(
        None,
        ge=1,
        description="What the loaded models may take together; the least recently used ones are evicted. Default: half "
        "of the inference device's memory.",
    )
    model_overhead_bytes: int = Field(
        1 << 30,
        ge=0,
        description="Counted for each loaded model beside its weights: its tokenizer and its prefix cache.",
    )
    unused_models_kept: int = Field(
        1000, ge=0, description="Most EVICTED and FAILED models; the least recently used ones beyond it are forgotten."
    )
    unused_model_days: float = Field(
        30.0, gt=0, description="An EVICTED or FAILED model is forgotten so many days after its last use."
    )
    reconcile_interval_seconds: float = Field(
        2.0, gt=0, description="Seconds between two comparisons of the registry with what Triton has loaded."
    )

    @property
    def engine_bounds(self) -> EngineBounds:
        """What each model may compute together and keep."""
        return EngineBounds(self.max_num_seqs, self.kv_cache_gib, self.prefix_cache_gib)

    @property
    def allowed_protocols(self) -> tuple[str, ...]:
        """``checkpoint_protocols`` one by one."""
        return tuple(each.strip() for each in self.checkpoint_protocols.split(",") if each.strip())

    @field_validator("triton_target")
    @classmethod
    def _check_triton_target(cls, value: str) -> str:
        TritonTargets(value)
        return value

    @field_validator("foreign_tritons")
    @classmethod
    def _check_foreign_tritons(cls, value: str) -> str:
        for each in filter(None, map(str.strip, value.split(","))):
            if not is_target(each):
                raise ValueError(f"{each!r} is not {TARGET_RULE}")
        return value

    @property
    def foreign_targets(self) -> tuple[str, ...]:
        """``foreign_tritons`` one by one."""
        return tuple(each.strip() for each in self.foreign_tritons.split(",") if each.strip())

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        """``checkpoint_roots`` as paths."""
        return tuple(Path(each) for each in self.checkpoint_roots.split(":") if each)
