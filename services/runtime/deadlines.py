"""How much time the call being handled has left, and how much of it a call made from here may use."""

import time

from services.runtime.calls import bind_deadline, current_scope

CHILD_MARGIN_SECONDS = 0.05
"""Kept back from a child call, so that its failure can still be reported in the caller's time."""

__all__ = ["CHILD_MARGIN_SECONDS", "bind_deadline", "child_timeout", "child_timeout_or_none", "remaining_seconds"]


def remaining_seconds() -> float | None:
    """Return the seconds left to the call being handled, at least 0; ``None`` when it has no deadline."""
    deadline = current_scope().deadline_seconds
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def child_timeout(cap_seconds: float) -> float:
    """Return the seconds that a child call may take: the remaining time less a margin, at most ``cap_seconds``."""
    bounded = child_timeout_or_none(cap_seconds)
    assert bounded is not None
    return bounded


def child_timeout_or_none(cap_seconds: float | None) -> float | None:
    """Like ``child_timeout`` with an optional cap; ``None`` when neither the caller nor the cap bounds the call."""
    remaining = remaining_seconds()
    if remaining is None:
        return cap_seconds
    left = max(0.0, remaining - CHILD_MARGIN_SECONDS)
    return left if cap_seconds is None else min(cap_seconds, left)
