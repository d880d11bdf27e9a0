"""Settings of the inference host."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.runtime.settings import ServiceSettings


class StartupModel(BaseModel):
    """A model that is loaded when the host starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name under which requests ask for it.")
    engine: Literal["causal_lm", "sequence_classifier"] = Field(description="Which engine runs it.")
    arguments: dict[str, Any] = Field(description="The engine's arguments, as in its model.json.")


class InferenceSettings(ServiceSettings):
    """Which host runs the engines, where it keeps its files, and how much of the machine it takes."""

    port: int = Field(8001, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    inference: Literal["triton", "local"] = Field(
        "triton", description="triton: the real tritonserver; local: the same engines in this process."
    )
    state_dir: Path = Field(
        Path(".evalfleet/inference"), description="Folder of the server's log, key and model repository."
    )
    triton_key_file: Path | None = Field(
        None, description="File with the model-control key; made if absent. Default: model-control.key in state_dir."
    )
    triton_dir: Path | None = Field(
        None,
        description="Folder of an installed Triton with its Python backend, /opt/tritonserver in NVIDIA's images; "
        "default: the wheel nvidia-pytriton.",
    )
    startup_models: tuple[StartupModel, ...] = Field(
        (), description="JSON list of models to load at start: name, engine, arguments."
    )
    start_timeout_seconds: float = Field(
        120.0, gt=0, description="Longest that the server may take until it is ready, in seconds."
    )
    exit_timeout_seconds: int = Field(
        5, ge=1, description="Seconds that Triton gives requests in flight when it stops."
    )
    log_max_bytes: int = Field(
        64 * 1024**2, ge=16 * 1024, description="Bound of Triton's log with its older pieces, in bytes."
    )
    expected_engines: int = Field(
        1, ge=1, description="Models that compute at once most of the time; the CPU cores are shared out among them."
    )
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of each engine; default: available cores ÷ expected_engines."
    )
    # Long batches and many concurrent streams are what this host is for; admission happens in the services.
    max_message_bytes: int = Field(256 * 1024 * 1024, ge=1024, description="Largest message in bytes.")
    max_concurrent_calls: int = Field(4096, ge=1, description="Calls handled at once, per method (local host only).")

    @property
    def key_file(self) -> Path:
        """Where the model-control key lies."""
        return self.triton_key_file or self.state_dir / "model-control.key"

    @property
    def engine_threads(self) -> int:
        """CPU threads of each engine."""
        return self.torch_threads or max(1, available_cores() // self.expected_engines)


def patient_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make OpenMP's threads give up their core soon while they wait for one another.

    By default they spin for milliseconds, so one busy neighbour on one of two cores made a pass of two threads five
    times slower; spinning for a few microseconds, it lost what the neighbour took. Alone, both are equally fast. It
    must be set before torch is imported. What the operator has set is kept.
    """
    if "OMP_WAIT_POLICY" in environment:
        return {}
    return {"GOMP_SPINCOUNT": environment.get("GOMP_SPINCOUNT", "1000")}


def available_cores() -> int:
    """Return the CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
