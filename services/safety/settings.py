"""Settings of the safety service."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from services.inference.contract import VariantName
from services.runtime.settings import ServiceSettings


class SafetySettings(ServiceSettings):
    """Where Triton and the guard's weights are, and how long things may take."""

    port: int = Field(8102, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    triton_target: str = Field("127.0.0.1:8001", description="host:port of Triton's gRPC service.")
    triton_key_file: Path | None = Field(
        None, description="File with Triton's model-control key; without one, the guard must be loaded already."
    )
    state_dir: Path = Field(Path(".evalfleet/safety"), description="Folder of the cache of classified texts.")
    verdict_cache_url: str = Field(
        "",
        description="Where guards' probabilities are kept: sqlite:///PATH, redis://HOST:PORT/DATABASE, off; "
        "default: classified.sqlite3 in the state folder.",
    )
    verdict_cache_max_bytes: int = Field(
        512 * 1024**2, ge=1024**2, description="Bound of an SQLite cache in bytes; the least recently used go first."
    )
    verdict_cache_lifetime_seconds: float = Field(
        14 * 86_400.0, gt=0, description="Seconds after its last use that Redis keeps an entry."
    )
    verdict_cache_timeout_seconds: float = Field(
        0.5, gt=0, description="Longest operation of Redis, in seconds; then the guard is asked."
    )
    engine_revision: str = Field(
        "", description="What of the engines this process cannot see, e.g. the digest of Triton's image."
    )
    encoder_path: Path | None = Field(
        None,
        description="Folder of the embedded guard's encoder; default: the offline package, then the hub. "
        "Triton must see it under the same path.",
    )
    guard_checkpoint: Path | None = Field(
        None,
        description="Folder of a Hugging Face sequence classifier that replaces the embedded guard. "
        "Triton must see it under the same path.",
    )
    guard_file: Path | None = Field(
        None, description="guard.yaml of that checkpoint; default: guard.yaml inside its folder."
    )
    guard_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number type that the guard computes in."
    )
    auto_dtype: Literal["float32", "checkpoint"] = Field(
        "float32",
        description="What the number type `auto` of a language-model guard is: float32, or that of its checkpoint.",
    )
    guards_file: Path | None = Field(
        None, description="YAML list of further guards to run beside the default one, see docs/guards/formats.md."
    )
    guard_max_concurrent_turns: int = Field(
        64, ge=1, description="Turns that each language-model guard is asked about at once."
    )
    guard_variant: VariantName = Field(
        "torch",
        description="What computes the embedded guard: torch, onnxruntime, onnxruntime-int8, openvino, openvino-int8. "
        "The others need packages of the extra `guards` where Triton's models run, and a measured loss of quality.",
    )
    guard_timeout_seconds: float = Field(
        120.0, gt=0, description="Longest request to the guard, in seconds; then its verdict is ERROR."
    )
    guard_load_timeout_seconds: float = Field(300.0, gt=0, description="Longest load of the guard, in seconds.")
    guard_ready_wait_seconds: float = Field(
        20.0, ge=0, description="Longest that a call waits for a guard that is being loaded, in seconds."
    )
    price_table: Path | None = Field(
        None,
        description="JSON file of prices by guard (`guards/NAME`) and engine, as the generation service's; "
        "default: everything is free.",
    )
    policy_dirs: str = Field("", description="Further folders with policies (*.yaml), separated by colons.")
    max_stream_items: int = Field(
        256, ge=1, description="Items of one stream at once; while there are so many, no more are read."
    )
    stream_item_timeout_seconds: float = Field(300.0, gt=0, description="Longest time of one item of a stream.")
    max_open_responses: int = Field(64, ge=1, description="Responses of one stream that are judged as they grow.")
    max_response_characters: int = Field(
        200_000, ge=1, description="Longest response that is judged as it grows, in characters."
    )

    @property
    def policy_folders(self) -> tuple[Path, ...]:
        """``policy_dirs`` as paths."""
        return tuple(Path(each) for each in self.policy_dirs.split(":") if each)
