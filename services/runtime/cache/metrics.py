"""What a cache counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class CacheMetrics:
    """Counters of one cache; every name begins with ``evalfleet_{cache}_cache``.

    Args:
        cache: whose it is: ``generation``.
        registry: receives them.
    """

    def __init__(self, cache: str, registry: CollectorRegistry) -> None:
        prefix = f"evalfleet_{cache}_cache"
        self.lookups = Counter(
            f"{prefix}_lookups", "Lookups by what came of them.", labelnames=("outcome",), registry=registry
        )
        self.corrupt_entries = Counter(
            f"{prefix}_corrupt_entries", "Entries whose checksum did not match.", registry=registry
        )
        self.store_failures = Counter(
            f"{prefix}_store_failures", "Operations that the store failed; they counted as misses.", registry=registry
        )
        self.dropped_entries = Counter(
            f"{prefix}_dropped_entries", "Entries that were not stored: the store was slow or away.", registry=registry
        )
        self.evicted_entries = Counter(
            f"{prefix}_evicted_entries", "Entries that made room for newer ones.", registry=registry
        )
        self.stored_bytes = Gauge(
            f"{prefix}_stored_bytes", "Bytes of the entries in the store; 0 if it does not say.", registry=registry
        )
