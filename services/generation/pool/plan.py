"""What the Tritons of a pool are to have."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.generation.backend import Deployment
from services.generation.checkpoints import ContentDigests, changed_checkpoint, read_fingerprint

_MOST_DROPPED: Final = 10_000
"""A training that registers a checkpoint every five minutes drops as many in a month."""

Verify = Callable[[Deployment], Awaitable[None]]
"""Raises CheckpointError when the files of a deployment are not (any longer) those that it stands for."""


@dataclass(slots=True)
class Plan:
    """What every member is to have, and what none is to have any more.

    Attributes:
        wanted: by name, the latest last.
        dropped: names, the latest last; a member that was away when they were unloaded may have them still.
    """

    wanted: dict[str, Deployment] = field(default_factory=dict)
    dropped: dict[str, None] = field(default_factory=dict)

    def want(self, deployment: Deployment) -> None:
        """Every member is to have this."""
        self.dropped.pop(deployment.name, None)
        self.wanted.pop(deployment.name, None)
        self.wanted[deployment.name] = deployment

    def drop(self, name: str) -> None:
        """No member is to have this."""
        self.wanted.pop(name, None)
        self.dropped.pop(name, None)
        self.dropped[name] = None
        if len(self.dropped) > _MOST_DROPPED:
            del self.dropped[next(iter(self.dropped))]


class ContentCheck:
    """Makes sure, long after a checkpoint was registered, that a further Triton reads the same one.

    Args:
        digests: hashes the files when they look as if they had been written again.
    """

    def __init__(self, digests: ContentDigests) -> None:
        self._digests = digests

    async def __call__(self, deployment: Deployment) -> None:
        """Raise CheckpointError, CHECKPOINT_CHANGED, when they are others."""
        folder = Path(deployment.checkpoint_path)
        adapter = Path(deployment.adapter_path) if deployment.adapter_path else None
        if await asyncio.to_thread(read_fingerprint, folder, adapter) == deployment.fingerprint:
            return
        content = await self._digests.digest(folder, deployment.dtype, adapter)
        if content.digest != deployment.digest:
            raise changed_checkpoint(folder)
