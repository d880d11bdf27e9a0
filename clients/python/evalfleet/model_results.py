"""What the registry of checkpoints says, as plain values."""

import enum
from dataclasses import dataclass
from datetime import datetime


class ModelState(enum.StrEnum):
    """What a registered model is doing."""

    UNKNOWN = "unknown"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class Model:
    """A registered checkpoint; ``failure`` says why it could not be loaded, in one line.

    ``foreign`` names the model of a foreign Triton, ``host:port/name``; it is empty for checkpoints of the fleet's own.
    """

    name: str
    checkpoint_path: str
    digest: str
    state: ModelState
    failure: str
    architecture: str
    dtype: str
    context_tokens: int
    weight_bytes: int
    create_time: datetime | None
    engine: str = ""
    foreign: str = ""
