"""Which unused models are forgotten, so that a training loop that registers for days does not pile up records."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.generation.models import ModelRecord, ModelState

_UNUSED_STATES = (ModelState.EVICTED, ModelState.FAILED)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long models that are not loaded stay registered.

    Attributes:
        kept_models: most EVICTED and FAILED models; the least recently used ones beyond it are forgotten.
        kept_for: longest time since a model's last use.
    """

    kept_models: int = 1000
    kept_for: timedelta = timedelta(days=30)


def models_to_forget(records: Iterable[ModelRecord], policy: RetentionPolicy, now: datetime) -> tuple[str, ...]:
    """Return the ids of the models to forget, the longest unused one first."""
    unused = sorted(
        (each for each in records if each.state in _UNUSED_STATES), key=lambda each: each.last_used, reverse=True
    )
    return tuple(
        each.model_id
        for rank, each in reversed(list(enumerate(unused)))
        if rank >= policy.kept_models or now - each.last_used > policy.kept_for
    )
