"""One Triton of a pool: what it has, what is asked of it, and whether it takes requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog

from services.generation.backend import Deployment, InferenceBackend
from services.generation.errors import ModelControlRefusedError, ModelLostError
from services.generation.pool.plan import Verify
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FleetError

_SERVER_GONE: Final = frozenset({"INFERENCE_UNAVAILABLE", "INFERENCE_STOPPING"})
"""After these a server has to say first that it takes requests, and what it has."""
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Connection:
    """What a pool needs of one Triton.

    Attributes:
        backend: asks it.
        close: ends the connection; running requests are cancelled.
        warm_up: starts what its first checkpoint would have to wait for; ``None``: nothing.
    """

    backend: InferenceBackend
    close: Callable[[], Awaitable[None]]
    warm_up: Callable[[], Awaitable[None]] | None = None


class Member:
    """One Triton.

    Args:
        address: its gRPC address.
        connection: to it.
        verify: asked before and after a checkpoint is read.
        on_change: called when ``is_ready`` changed.

    Attributes:
        address, connection: as given.
        is_ready: whether it takes requests, as far as known.
        was_asked: whether anything is known.
        names: the deployments that it has, as far as known.
        in_flight: requests that it works on.
        turn: when it was last chosen, counted in choices.
        epoch: counts what could have brought back what it had lost.
        stirred: set when there is reason to look at it soon.
    """

    def __init__(
        self, address: str, connection: Connection, verify: Verify, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.address = address
        self.connection = connection
        self.is_ready = False
        self.was_asked = False
        self.names: set[str] = set()
        self.in_flight = 0
        self.turn = 0
        self.epoch = 0
        self.stirred = asyncio.Event()
        self._verify = verify
        self._on_change = on_change
        self._idle = asyncio.Event()
        self._crashed: set[str] = set()
        self._changes = 0
        self._loads: dict[str, asyncio.Task[FleetError | None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._postponed: dict[str, tuple[float, float]] = {}
        self._log: Any = structlog.get_logger(__name__).bind(triton=address)

    @property
    def backend(self) -> InferenceBackend:
        """What asks it."""
        return self.connection.backend

    def begin(self) -> int:
        """Count a request as in flight until ``end``; returns the epoch, for ``lost``."""
        self.in_flight += 1
        self._idle.clear()
        return self.epoch

    def end(self) -> None:
        """See ``begin``."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def until_idle(self) -> None:
        """Return when no request is in flight."""
        while self.in_flight:
            await self._idle.wait()

    def lost(self, name: str, error: ModelLostError, epoch: int) -> None:
        """Learn from a request, sent in ``epoch``, that a deployment is gone, or the whole server."""
        if epoch != self.epoch:
            return  # it was sent to what was there before
        self._changes += 1
        self.stirred.set()
        if error.reason in _SERVER_GONE:
            self._set_ready(False)
            self.names.clear()
        elif name in self.names:
            self.names.discard(name)
            if error.engine_crashed:
                self._crashed.add(name)
            self._log.warning("triton_lost_model", deployment=name, reason=error.reason, error=error.message)

    async def refresh(self, *, timeout_seconds: float) -> None:
        """Ask whether it takes requests, and what it has."""
        await self._refresh(timeout_seconds)
        self.was_asked = True

    async def _refresh(self, timeout_seconds: float) -> None:
        if not await self.backend.is_ready():
            self._set_ready(False)
            return
        changes = self._changes
        try:
            names = await self.backend.loaded_names(timeout_seconds=timeout_seconds)
        except ModelLostError:
            self._set_ready(False)
        except ModelControlRefusedError:
            self._set_ready(True)  # whoever loads is told
        except FleetError as error:
            # It may be busy: what is known of it stays.
            self._log.warning("triton_silent", error=error.message)
        else:
            if changes == self._changes:
                self.names = set(names) - self._crashed
                self._set_ready(True)

    def load(self, deployment: Deployment, *, timeout_seconds: float) -> "asyncio.Task[FleetError | None]":
        """Load a deployment in a task that outlives whoever waits for it; it returns what went wrong."""
        running = self._loads.get(deployment.name)
        if running is None:
            with bind_deadline(None):
                running = asyncio.create_task(
                    self._load(deployment, timeout_seconds), name=f"load {deployment.name} at {self.address}"
                )
            self._loads[deployment.name] = running
            running.add_done_callback(lambda _: self._loads.pop(deployment.name, None))
        return running

    def is_postponed(self, name: str) -> bool:
        """Return whether a load of it failed a short while ago."""
        return self._postponed.get(name, (0.0, 0.0))[0] > time.monotonic()

    async def stop_loading(self, name: str) -> None:
        """Wait for a load no longer; the server may finish it all the same."""
        running = self._loads.get(name)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a deployment after its requests in flight; an unknown name is no error."""
        await self.stop_loading(name)
        async with self._lock(name):
            self._forget(name)
            try:
                await self.backend.unload(name, timeout_seconds=timeout_seconds)
            except ModelLostError:
                self._set_ready(False)
                self.stirred.set()
                raise
            finally:
                # What it says that it has may have been said before.
                self._forget(name)

    async def close(self) -> None:
        """End loads and the connection; running requests are cancelled."""
        for name in tuple(self._loads):
            await self.stop_loading(name)
        await self.connection.close()

    async def _load(self, deployment: Deployment, timeout_seconds: float) -> FleetError | None:
        name = deployment.name
        async with self._lock(name):
            try:
                await self._verify(deployment)
                if name in self._crashed:
                    await self.backend.unload(name, timeout_seconds=timeout_seconds)
                await self.backend.load(deployment, timeout_seconds=timeout_seconds)
                await self._verified(deployment, timeout_seconds)
            except ModelLostError as error:
                self._set_ready(False)
                self.stirred.set()
                return error
            except FleetError as error:
                self._postpone(name)
                self._log.warning("triton_refused_model", deployment=name, reason=error.reason, error=error.message)
                return error
            self._crashed.discard(name)
            self._postponed.pop(name, None)
            self._changes += 1
            self.epoch += 1
            self.names.add(name)
            self._log.info("triton_has_model", deployment=name)
            return None

    async def _verified(self, deployment: Deployment, timeout_seconds: float) -> None:
        try:
            await self._verify(deployment)
        except FleetError:
            await self.backend.unload(deployment.name, timeout_seconds=timeout_seconds)
            raise

    def _forget(self, name: str) -> None:
        self._changes += 1
        self.names.discard(name)
        self._crashed.discard(name)
        self._postponed.pop(name, None)

    def _postpone(self, name: str) -> None:
        _, pause_seconds = self._postponed.get(name, (0.0, _FIRST_PAUSE_SECONDS / 2))
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        self._postponed[name] = (time.monotonic() + pause_seconds, pause_seconds)

    def _set_ready(self, is_ready: bool) -> None:
        if is_ready == self.is_ready:
            return
        self.is_ready = is_ready
        self.epoch += 1
        self._log.info("triton_ready" if is_ready else "triton_away")
        self._on_change()

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())
