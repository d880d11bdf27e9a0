"""Keeps a guard's model loaded in the inference host: when it is missing, and again after the host or it was lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog

from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FleetError, UnavailableError
from services.safety.errors import GuardLoadError, GuardUnavailableError

Answer = TypeVar("Answer")

ENGINE_CRASHED: Final = "ENGINE_CRASHED"
LOST_REASONS: Final = frozenset(
    {"INFERENCE_UNAVAILABLE", "INFERENCE_STOPPING", "MODEL_NOT_LOADED", "MODEL_NOT_READY", ENGINE_CRASHED}
)
"""After these errors the model has to be, or may have to be, loaded again."""

_RETRY_AFTER_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


class ModelLoading:
    """Loads one model in the background; all who need it wait for the same load.

    Args:
        model: its name, for messages.
        load: loads it and returns when it takes requests; its argument says that the process that had it is dead.
        ready_wait_seconds: longest that a call waits for a load.
    """

    def __init__(self, model: str, load: Callable[[bool], Awaitable[None]], *, ready_wait_seconds: float) -> None:
        self._model = model
        self._load = load
        self._ready_wait_seconds = ready_wait_seconds
        self._loading: asyncio.Task[None] | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._not_before = 0.0
        self._refused: GuardLoadError | None = None
        self._log: Any = structlog.get_logger(__name__)

    async def close(self) -> None:
        """Give up a load in progress; the model stays where it is, for whoever comes next."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])

    @property
    def is_running(self) -> bool:
        """Whether the model is being loaded now."""
        return self._loading is not None and not self._loading.done()

    def begin(self) -> None:
        """Load the model, unless it was refused a short while ago."""
        if time.monotonic() >= self._not_before:
            self._load_in_background()

    async def retried(self, ask: Callable[[float], Awaitable[Answer]], timeout_seconds: float) -> Answer:
        """Return what ``ask`` returns; if the model is lost, load it as far as the time allows and ask once more.

        Args:
            ask: asks the model within the seconds it is given.
            timeout_seconds: for all of it.

        Raises:
            GuardUnavailableError: the model is away and does not come back in time.
            GuardLoadError: the inference host refuses the model.
            FleetError: there is no answer.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            return await ask(timeout_seconds)
        except FleetError as error:
            if error.reason not in LOST_REASONS:
                raise
            lost = error
        self._log.warning("guard_lost", model=self._model, reason=lost.reason)
        await self._wait_until_loaded(lost, deadline - time.monotonic())
        try:
            return await ask(deadline - time.monotonic())
        except FleetError as error:
            if error.reason in LOST_REASONS:
                raise self._away(error) from error
            raise

    async def _wait_until_loaded(self, lost: FleetError, seconds: float) -> None:
        if self._refused is not None and time.monotonic() < self._not_before:
            raise _again(self._refused)
        task = self._load_in_background(restart=lost.reason == ENGINE_CRASHED)
        await asyncio.wait([task], timeout=min(seconds, self._ready_wait_seconds))
        if not task.done() or task.cancelled():
            raise self._away(lost)
        error = task.exception()
        if isinstance(error, UnavailableError):
            raise self._away(error) from error
        if isinstance(error, GuardLoadError):
            raise _again(error) from error
        if error is not None:
            raise error

    def _away(self, cause: FleetError) -> GuardUnavailableError:
        return GuardUnavailableError(
            f"the guard's model {self._model!r} does not take requests now ({cause.message}); try again",
            metadata={"model": self._model, "cause": cause.reason},
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )

    def _load_in_background(self, *, restart: bool = False) -> asyncio.Task[None]:
        if self._loading is None or self._loading.done():
            # The load serves all callers and outlives the call that began it.
            with bind_deadline(None):
                self._loading = asyncio.create_task(self._run(restart), name=f"load {self._model}")
            self._loading.add_done_callback(self._load_ended)
        return self._loading

    async def _run(self, restart: bool) -> None:
        try:
            await self._load(restart)
        except (UnavailableError, GuardLoadError):
            raise
        except FleetError as error:
            raise GuardLoadError(
                f"the inference host does not load the guard's model {self._model!r}: {error.message}",
                metadata={"model": self._model, "cause": error.reason},
            ) from error

    def _load_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        self._refused = error if isinstance(error, GuardLoadError) else None
        if error is None:
            self._pause_seconds, self._not_before = _FIRST_PAUSE_SECONDS, 0.0
            self._log.info("guard_ready", model=self._model)
            return
        if self._refused is not None:
            # A host that is away is asked again at once: that is cheap, and it should be found when it is back.
            self._not_before = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        self._log.warning("guard_load_failed", model=self._model, error=str(error) or type(error).__name__)


def _again(error: GuardLoadError) -> GuardLoadError:
    """Return a copy: an exception that many calls raise would collect all their tracebacks."""
    return GuardLoadError(error.message, reason=error.reason, metadata=error.metadata)
