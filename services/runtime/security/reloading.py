"""What files hold, read again when they change; what was there before stays while they are unusable."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import structlog

from services.runtime.error_types import StartupError

LOOK_SECONDS: Final = 1.0
ContentT = TypeVar("ContentT")


class Reloaded(Generic[ContentT]):
    """The content of some files, for the event loop and for gRPC's threads alike.

    The files are looked at once a second at most, when somebody asks, and read where they changed: a few kilobytes.

    Args:
        paths: the files.
        read: reads them all; raises OSError or StartupError.
        name: of the content, in the log: ``certificates``.

    Raises:
        StartupError: FILE_UNREADABLE, or what ``read`` raises.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], ContentT], *, name: str) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._name = name
        self._problem = ""
        self._lock = threading.Lock()
        self._seen, self._content = self._load()
        self._next_look = time.monotonic() + LOOK_SECONDS

    def current(self) -> ContentT:
        """Return what the files hold."""
        if time.monotonic() >= self._next_look:
            with self._lock:
                if time.monotonic() >= self._next_look:
                    self._look()
                    self._next_look = time.monotonic() + LOOK_SECONDS
        return self._content

    def _look(self) -> None:
        log: Any = structlog.get_logger(__name__)
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return
            self._content = self._read()
            # Not before: what could not be read is looked at until it can be.
            self._seen = stamps
        except (StartupError, OSError) as error:
            # Files may be replaced one after another: soon they belong together again.
            problem = _problem(error)
            if problem != self._problem:
                log.warning(f"{self._name}_not_renewed", problem=problem)
            self._problem = problem
        else:
            self._problem = ""
            log.info(f"{self._name}_renewed", files=[str(each) for each in self._paths])

    def _load(self) -> tuple[object, ContentT]:
        try:
            return self._stamps(), self._read()
        except OSError as error:
            raise StartupError(_problem(error), reason="FILE_UNREADABLE") from error

    def _stamps(self) -> object:
        found = [path.stat() for path in self._paths]
        return tuple((each.st_mtime_ns, each.st_ctime_ns, each.st_size, each.st_ino) for each in found)


def _problem(error: StartupError | OSError) -> str:
    if isinstance(error, StartupError):
        return error.message
    return f"{error.filename} cannot be read: {error.strerror}"
