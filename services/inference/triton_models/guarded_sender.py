"""Keeps Triton alive: a response sender is used and asked only until its request's final response."""

import threading
from typing import Any, Protocol


class ResponseSender(Protocol):
    """Triton's response sender."""

    def send(self, *response: Any, flags: int = 0) -> None:
        """Send a response, or only flags."""

    def is_cancelled(self) -> bool:
        """Return whether the caller gave up; it asks Triton's own process and waits for the answer."""


class GuardedSender:
    """A response sender that can be used from any thread, at any time.

    With the final response, Triton (from its release 24.09 on) destroys what later questions and responses would refer
    to, and looks at it without a check: the whole server dies of SIGSEGV. Questions reach it on another way than
    responses, so one that was asked before may still arrive after the final response of another thread; a lock keeps
    them apart.

    Args:
        sender: Triton's.
        final_flag: the flag that ends a request.
    """

    def __init__(self, sender: ResponseSender, final_flag: int) -> None:
        self._sender: ResponseSender | None = sender
        self._final_flag = final_flag
        self._lock = threading.Lock()
        self._was_cancelled = False

    def send(self, response: Any) -> None:
        """Send one response, more follow; nothing after the final one."""
        with self._lock:
            if self._sender is not None:
                self._sender.send(response, flags=0)

    def end(self, *response: Any) -> None:
        """Send the final response, or the final mark alone; the first time counts."""
        with self._lock:
            sender, self._sender = self._sender, None
            if sender is not None:
                sender.send(*response, flags=self._final_flag)

    def is_cancelled(self) -> bool:
        """Return whether the caller gave up; of an ended request, what was known at last."""
        with self._lock:
            if self._sender is not None and not self._was_cancelled:
                self._was_cancelled = bool(self._sender.is_cancelled())
            return self._was_cancelled
