"""Registered models: their record, their ids and the names that the inference server knows them by."""

import enum
import re
from dataclasses import dataclass
from datetime import datetime

from services.generation.backend import Deployment
from services.generation.checkpoints import Fingerprint
from services.generation.foreign.target import ForeignTarget

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MODEL_ID_RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
DTYPES = ("auto", "float32", "bfloat16", "float16")
ENGINES = ("auto", "transformers", "vllm")

FOREIGN_PREFIX = "foreign-"
"""Deployments of foreign models are named so; those of checkpoints are not."""

_SHOWN_DIGEST_CHARACTERS = 12
_DEFAULT_ID_DIGEST_CHARACTERS = 8
_LONGEST_ID = 63


class ModelState(enum.Enum):
    """What a model is doing."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What the registry keeps about one model.

    Attributes:
        model_id: the ``{model}`` of ``models/{model}``.
        checkpoint_path: resolved folder of the checkpoint.
        digest: SHA-256 (hex) of the content; empty until it is computed.
        state: what the model is doing.
        failure: one line why it failed; empty unless FAILED.
        architecture: from the checkpoint's configuration.
        dtype: number type of the computation, never ``auto``.
        context_tokens: longest prompt plus answer; 0 if the configuration does not say.
        weight_bytes: size of the weights.
        create_time: when it was registered, in UTC.
        fingerprint: the files that the digest was computed from; empty as long as the digest is.
        engine: what computes its answers, never ``auto``.
        parameter_count: numbers in its weights; 0 if they were not counted.
        adapter_path: resolved folder of the LoRA adapter; empty without one.
        source: where it was fetched from, as JSON; empty for folders.
        foreign_target: which model of a foreign Triton it is, as JSON; empty for checkpoints. ``checkpoint_path`` then
            holds its tokenizer, and nothing is known of its weights.
        last_use_time: when it last took a request before it was loaded or evicted; ``None``: never.
        base_digest: as ``digest``, without the adapter; empty for foreign models and as long as the digest is.
        lineage_digest: SHA-256 (hex) over what checkpoints of one training have in common; empty likewise.
    """

    model_id: str
    checkpoint_path: str
    digest: str
    state: ModelState
    failure: str
    architecture: str
    dtype: str
    context_tokens: int
    weight_bytes: int
    create_time: datetime
    fingerprint: Fingerprint = ()
    engine: str = "transformers"
    parameter_count: int = 0
    last_use_time: datetime | None = None
    adapter_path: str = ""
    source: str = ""
    foreign_target: str = ""
    base_digest: str = ""
    lineage_digest: str = ""

    @property
    def last_used(self) -> datetime:
        """When it last took a request, or was registered."""
        return self.last_use_time or self.create_time

    @property
    def foreign(self) -> ForeignTarget | None:
        """Which model of a foreign Triton it is; ``None`` for checkpoints."""
        return ForeignTarget.from_json(self.foreign_target) if self.foreign_target else None

    @property
    def has_known_content(self) -> bool:
        """Whether its digest changes with everything that decides its answers."""
        foreign = self.foreign
        return foreign is None or bool(foreign.revision)

    @property
    def deployment(self) -> Deployment:
        """The model as the inference server loads it; needs the digest."""
        if self.foreign_target:
            name = f"{FOREIGN_PREFIX}{self.model_id}-{self.digest[:_SHOWN_DIGEST_CHARACTERS]}"
            return Deployment(name, self.checkpoint_path, self.dtype, self.engine, foreign=self.foreign)
        name = f"checkpoint-{self.model_id}-{self.digest[:_SHOWN_DIGEST_CHARACTERS]}"
        return Deployment(
            name,
            self.checkpoint_path,
            self.dtype,
            self.engine,
            self.adapter_path,
            digest=self.digest,
            fingerprint=self.fingerprint,
        )


def default_model_id(folder_name: str, digest: str) -> str:
    """Make an id for a model whose caller gave none: folder ``Step 1200`` may give ``step-1200-ab12cd34``."""
    suffix = "-" + digest[:_DEFAULT_ID_DIGEST_CHARACTERS]
    stem = re.sub(r"[^a-z0-9._-]+", "-", folder_name.casefold())
    stem = stem.lstrip("._-")[: _LONGEST_ID - len(suffix)].rstrip("._-")
    return (stem or "model") + suffix
