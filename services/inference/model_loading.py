"""Keeps a model of a service's own loaded in the inference host: when it is missing, and again after it was lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FailedPreconditionError, FleetError, UnavailableError

Answer = TypeVar("Answer")

ENGINE_CRASHED: Final = "ENGINE_CRASHED"
LOST_REASONS: Final = frozenset(
    {"INFERENCE_UNAVAILABLE", "INFERENCE_STOPPING", "MODEL_NOT_LOADED", "MODEL_NOT_READY", ENGINE_CRASHED}
)
"""After these errors the model has to be, or may have to be, loaded again."""

_RETRY_AFTER_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_LONGEST_PAUSE_OF_HOST_SECONDS: Final = 8.0
_HOST_AWAY: Final = "INFERENCE_UNAVAILABLE"
_HOST_FAILED: Final = "MODEL_LOAD_FAILED"
"""What the host says where the model itself said nothing: its process died, or did not start in time."""


@dataclass(frozen=True, slots=True)
class LoadingTerms:
    """What a service calls a model that it keeps loaded, and what it raises about it.

    Attributes:
        what: in messages: ``the guard's model``.
        event: begins the names of log events: ``guard``.
        refused: raised when the inference host does not load it.
        away: raised when it takes no requests now.
    """

    what: str
    event: str
    refused: type[FailedPreconditionError]
    away: type[UnavailableError]


class ModelLoading:
    """Loads one model in the background; all who need it wait for the same load.

    Args:
        model: its name, for messages.
        terms: what it is called, and the errors.
        load: loads it and returns when it takes requests; its argument says that the process that had it is dead.
        ready_wait_seconds: longest that a call waits for a load.
    """

    def __init__(
        self,
        model: str,
        terms: LoadingTerms,
        load: Callable[[bool], Awaitable[None]],
        *,
        ready_wait_seconds: float,
    ) -> None:
        self._model = model
        self._terms = terms
        self._load = load
        self._ready_wait_seconds = ready_wait_seconds
        self._loading: asyncio.Task[None] | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._not_before = 0.0
        self._refused: FailedPreconditionError | None = None
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

    def forget_host(self) -> None:
        """Note that the host is away: what it refused says nothing of the one that takes its place."""
        self._pause_seconds, self._not_before = _FIRST_PAUSE_SECONDS, 0.0
        self._refused = None

    async def retried(self, ask: Callable[[float], Awaitable[Answer]], timeout_seconds: float) -> Answer:
        """Return what ``ask`` returns; if the model is lost, load it as far as the time allows and ask once more.

        Args:
            ask: asks the model within the seconds it is given.
            timeout_seconds: for all of it.

        Raises:
            FleetError: as the terms say, the model is away and does not come back in time, or the inference host
                refuses it; or there is no answer.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            return await ask(timeout_seconds)
        except FleetError as error:
            if error.reason not in LOST_REASONS:
                raise
            lost = error
        if lost.reason == _HOST_AWAY:
            self.forget_host()
        self._log.warning(f"{self._terms.event}_lost", model=self._model, reason=lost.reason)
        await self._wait_until_loaded(lost, deadline - time.monotonic())
        try:
            return await ask(deadline - time.monotonic())
        except FleetError as error:
            if error.reason in LOST_REASONS:
                raise self._away(error) from error
            raise

    async def _wait_until_loaded(self, lost: FleetError, seconds: float) -> None:
        if self._refused is not None and time.monotonic() < self._not_before:
            raise self._refused.again()
        task = self._load_in_background(restart=lost.reason == ENGINE_CRASHED)
        await asyncio.wait([task], timeout=min(seconds, self._ready_wait_seconds))
        if not task.done() or task.cancelled():
            raise self._away(lost)
        error = task.exception()
        if isinstance(error, UnavailableError):
            raise self._away(error) from error
        if isinstance(error, self._terms.refused):
            raise error.again() from error
        if error is not None:
            raise error

    def _away(self, cause: FleetError) -> UnavailableError:
        return self._terms.away(
            f"{self._terms.what} {self._model!r} does not take requests now ({cause.message}); try again",
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
        except (UnavailableError, self._terms.refused):
            raise
        except FleetError as error:
            raise self._terms.refused(
                f"the inference host does not load {self._terms.what} {self._model!r}: {error.message}",
                metadata={"model": self._model, "cause": error.reason},
            ) from error

    def _load_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._pause_seconds, self._not_before = _FIRST_PAUSE_SECONDS, 0.0
            self._refused = None
            self._log.info(f"{self._terms.event}_ready", model=self._model)
            return
        self._refused = error if isinstance(error, self._terms.refused) else None
        if self._refused is not None:
            # A host that is away is asked again at once: that is cheap, and it should be found when it is back.
            self._not_before = time.monotonic() + self._pause_seconds
            is_hosts_failure = self._refused.metadata.get("cause") == _HOST_FAILED
            longest = _LONGEST_PAUSE_OF_HOST_SECONDS if is_hosts_failure else _LONGEST_PAUSE_SECONDS
            self._pause_seconds = min(2 * self._pause_seconds, longest)
        event = f"{self._terms.event}_load_failed"
        self._log.warning(event, model=self._model, error=str(error) or type(error).__name__)
