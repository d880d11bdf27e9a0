"""Every service says under the same names how much it has in hand, how much waits, and for how long."""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from services.runtime.server import HostedService
from services.runtime.settings import ServiceSettings
from services.runtime.testing import as_bytes, run_in_process
from services.runtime.work import Work, WorkMeter, WorkMetrics
from tests.patience import until

UNARY = "/test.v1.TestService/Unary"
ONE_AT_ONCE = ServiceSettings(port=0, metrics_port=0, max_concurrent_calls=1)


def figures(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    running, queued = (registry.get_sample_value("evalfleet_work_items", {"state": s}) for s in ("running", "queued"))
    return running, queued


def test_work_adds_up_and_the_longest_wait_counts() -> None:
    assert Work(1, 2, 3.0) + Work(10, 20, 2.0) == Work(11, 22, 3.0)
    assert Work(backlog_tokens=5) + Work() + Work(backlog_tokens=7) == Work(backlog_tokens=12)


def test_tokens_are_told_only_where_work_has_them() -> None:
    registry = CollectorRegistry()
    registry.register(WorkMetrics([lambda: Work(running=2)]))
    assert figures(registry) == (2, 0)
    assert registry.get_sample_value("evalfleet_backlog_tokens") is None
    with_tokens = CollectorRegistry()
    with_tokens.register(WorkMetrics([lambda: Work(queued=1, backlog_tokens=70), WorkMeter().work]))
    assert with_tokens.get_sample_value("evalfleet_backlog_tokens") == 70


def test_a_meter_counts_what_is_inside_its_block() -> None:
    meter = WorkMeter()
    with meter.running(3), meter.running():
        assert meter.work() == Work(running=4)
    assert meter.work() == Work()


async def test_a_service_that_says_nothing_has_its_calls_counted_and_those_at_the_door(make_service: Any) -> None:
    answered = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        await answered.wait()
        return request

    async with run_in_process(make_service(unary=wait), settings=ONE_AT_ONCE) as running:
        call = running.channel.unary_unary(UNARY, as_bytes, as_bytes)
        calls = [call(b"a"), call(b"b")]
        await until(lambda: figures(running.registry) == (1, 1))
        waited = running.registry.get_sample_value("evalfleet_oldest_wait_seconds")
        assert waited is not None
        await until(lambda: (running.registry.get_sample_value("evalfleet_oldest_wait_seconds") or 0) > waited)
        answered.set()
        await asyncio.gather(*calls)
        await until(lambda: figures(running.registry) == (0, 0))
        assert running.registry.get_sample_value("evalfleet_oldest_wait_seconds") == 0


async def test_a_service_that_counts_items_has_its_own_figures_and_the_calls_at_the_door(make_service: Any) -> None:
    answered = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        await answered.wait()
        return request

    plain = make_service(unary=wait)
    counting = HostedService(plain.full_name, plain.add_to_server, work=lambda: Work(40, 5, 0.0, 600))
    async with run_in_process(counting, settings=ONE_AT_ONCE) as running:
        call = running.channel.unary_unary(UNARY, as_bytes, as_bytes)
        calls = [call(b"a"), call(b"b")]
        await until(lambda: figures(running.registry) == (40, 6))
        assert running.registry.get_sample_value("evalfleet_backlog_tokens") == 600
        answered.set()
        await asyncio.gather(*calls)
