"""What a sandbox needs before its first program: made once, and looked for again after a while where it is missing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import structlog

from services.sandbox.errors import SandboxUnavailableError

OpenedT = TypeVar("OpenedT")

_RETRY_SECONDS: Final = 30.0
_log = structlog.get_logger(__name__)


class Opening(Generic[OpenedT]):
    """Makes something once, however many ask for it.

    Args:
        make: makes it. What it raises is told to everybody who asks in the next half minute.
    """

    def __init__(self, make: Callable[[], Awaitable[OpenedT]]) -> None:
        self._make = make
        self._opened: OpenedT | None = None
        self._task: asyncio.Task[OpenedT] | None = None
        self._refusal: SandboxUnavailableError | None = None
        self._refused_at = 0.0
        self._is_closed = False

    async def get(self) -> OpenedT:
        """Return it.

        Raises:
            SandboxUnavailableError: it cannot be made on this machine, or has been closed.
            SandboxBusyError: the machine was too busy to tell; who asks next has it made.
        """
        if self._is_closed:
            raise SandboxUnavailableError("the sandbox has been closed")
        if self._opened is not None:
            return self._opened
        # Not on the caller's time: who leaves must not drop what a thread is making.
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._open())
        return await asyncio.shield(self._task)

    async def take(self) -> OpenedT | None:
        """Return what was made, if anything, to be closed; nothing is made after that."""
        self._is_closed = True
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        opened, self._opened = self._opened, None
        return opened

    async def _open(self) -> OpenedT:
        if self._refusal is not None and time.monotonic() - self._refused_at < _RETRY_SECONDS:
            raise self._refusal.again()
        try:
            self._opened = await self._make()
        except (SandboxUnavailableError, OSError) as error:
            self._refusal, self._refused_at = refusal_of(error), time.monotonic()
            _log.error("sandbox_unavailable", reason=self._refusal.message)
            raise self._refusal.again() from error
        return self._opened


def refusal_of(error: SandboxUnavailableError | OSError) -> SandboxUnavailableError:
    """Return the error that says that there is no sandbox."""
    if isinstance(error, SandboxUnavailableError):
        return error
    return SandboxUnavailableError(f"what a sandbox needs cannot be made on this machine: {error}")
