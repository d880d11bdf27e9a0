"""How long the items of a batch or a stream may take."""

from services.runtime.deadlines import remaining_seconds

# Kept back from items, so that those that were too slow still come back as statuses.
_MARGIN_SHARE = 0.05
_LARGEST_MARGIN_SECONDS = 1.0


def batch_seconds() -> float | None:
    """Return the time that the items of the call being handled may take; ``None`` when it has no deadline."""
    remaining = remaining_seconds()
    return None if remaining is None else remaining - min(_LARGEST_MARGIN_SECONDS, _MARGIN_SHARE * remaining)


def item_seconds(limit_seconds: float) -> float:
    """Return the time that one item of a stream may take: ``limit_seconds``, or what its stream has left."""
    left = batch_seconds()
    return limit_seconds if left is None else min(limit_seconds, left)
