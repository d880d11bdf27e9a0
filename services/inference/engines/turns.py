"""Turns at computing for the engines that share a process."""

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """A lock that is handed over in the order of asking.

    An engine that computes batch after batch gives the lock back and asks for it again at once; an ordinary lock
    would let it win nearly every time, and the others would wait for as long as it has work.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._is_held:
                self._is_held = True
                return
            place = threading.Lock()
            place.acquire()
            self._waiting.append(place)
        place.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_held = False
