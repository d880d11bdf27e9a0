"""The registered models, without those that are being deleted."""

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

from services.generation.errors import ModelDeletedError
from services.generation.models import ModelRecord
from services.generation.registry import ModelRegistry
from services.runtime.errors import not_found


class KnownModels:
    """What the registry holds, as callers may see it.

    Attributes:
        registry: keeps the records.
        deleting: ids of the models whose deletion has begun.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self.registry = registry
        self.deleting: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def find(self, model_id: str) -> ModelRecord | None:
        """Return a model; ``None`` if there is none, or it is being deleted."""
        return None if model_id in self.deleting else self.registry.find(model_id)

    def get(self, model_id: str) -> ModelRecord:
        """Return a model.

        Raises:
            NotFoundError: MODEL_NOT_FOUND, with the nearest id.
        """
        record = self.find(model_id)
        if record is None:
            raise not_found("model", model_id, (each.model_id for each in self.records()))
        return record

    def still(self, model_id: str) -> ModelRecord:
        """Return a model that was there when the caller began to wait for it.

        Raises:
            ModelDeletedError: it has gone since.
        """
        record = self.find(model_id)
        if record is None:
            raise ModelDeletedError(f"models/{model_id} is being deleted")
        return record

    def records(self) -> Sequence[ModelRecord]:
        """Return all models, ordered by id."""
        return [record for record in self.registry.records() if record.model_id not in self.deleting]

    def lock(self, model_id: str) -> asyncio.Lock:
        """Return the lock under which a model comes into being or goes."""
        return self._locks.setdefault(model_id, asyncio.Lock())
