"""Counts handshakes that failed at a service's ports, and writes down those that it refused."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.security.audit import AuditLog
from services.runtime.security.handshakes.core_log import CoreLog
from services.runtime.security.handshakes.lines import ABANDONED, REFUSED_BY_CALLER
from services.runtime.security.settings import SecuritySettings

NOT_OURS: Final = frozenset({ABANDONED, REFUSED_BY_CALLER})
"""Reasons for which the caller ended it: probes of balancers, say. They are counted, not written down."""
_READ_BYTES: Final = 1 << 16
_END_SECONDS: Final = 5.0


class RefusedHandshakes(Collector):
    """What the relay reports; register it in the process's CollectorRegistry.

    Args:
        core_log: who reports.
        audit: where refusals are written down.
        public_port: number of the port for callers without certificates; all others are the fleet's.
    """

    def __init__(self, core_log: CoreLog, audit: AuditLog, *, public_port: int = 0) -> None:
        self._core_log = core_log
        self._audit = audit
        self._public_port = str(public_port)
        self._counts: Counter[str] = Counter()
        self._rest = b""
        self._ended = asyncio.Event()
        self._is_closing = False
        self._log: Any = structlog.get_logger(__name__)
        asyncio.get_running_loop().add_reader(core_log.reports, self._read)

    def _read(self) -> None:
        try:
            content = os.read(self._core_log.reports, _READ_BYTES)
        except BlockingIOError:
            return
        if not content:
            self._end()
            return
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            self._take(**json.loads(line))
        if self._core_log.has_lost():
            self._audit.refused("tls_handshakes_missed", of="handshakes")

    def _take(self, *, reason: str, listener: str, peer: str, count: int) -> None:
        self._counts[reason] += count
        if reason not in NOT_OURS:
            port = "public" if listener.rpartition(":")[2] == self._public_port else "fleet"
            self._audit.refused(
                "tls_handshake_refused", of="handshakes", count=count, reason=reason, port=port, peer=peer
            )

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._core_log.reports)
        self._ended.set()
        if not self._is_closing:
            # The core's own log lines must not go to nobody; handshakes are refused all the same.
            self._core_log.end_input()
            self._log.error("tls_handshakes_not_watched", problem="the relay of gRPC's log ended")

    async def close(self) -> None:
        """Take the last reports, which end the diversion of the log."""
        if not self._ended.is_set():
            self._is_closing = True
            self._core_log.end_input()
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                self._end()
        self._audit.flush()

    def collect(self) -> Iterator[Metric]:
        """Yield the metric family for a scrape."""
        refused = CounterMetricFamily(
            "evalfleet_tls_handshakes_refused",
            "TLS handshakes at the gRPC ports that came to nothing.",
            labels=["reason"],
        )
        for reason, count in tuple(self._counts.items()):
            refused.add_metric([reason], count)
        yield refused


@asynccontextmanager
async def recording_handshakes(
    core_log: CoreLog | None, settings: SecuritySettings, registry: CollectorRegistry, *, service: str
) -> AsyncIterator[None]:
    """Count and write down what ``core_log`` reports; nothing where there is none.

    Args:
        core_log: gRPC's.
        settings: of the service.
        registry: receives the metric.
        service: full name of the service, for the audit log.
    """
    if core_log is None:
        yield
        return
    audit = AuditLog(settings.audit_file, service=service)
    refused = RefusedHandshakes(core_log, audit, public_port=settings.public_port)
    registry.register(refused)
    try:
        yield
    finally:
        await refused.close()
