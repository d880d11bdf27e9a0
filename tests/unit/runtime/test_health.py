"""Health follows readiness per service, and turns before calls are refused."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from services.runtime.database import unbroken
from services.runtime.errors import UnavailableError, from_rpc_error
from services.runtime.testing import as_bytes, run_in_process, serve_in_process
from tests.patience import LONGEST_WAIT_SECONDS

SERVICE = "test.v1.TestService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def echo(request: bytes, context: Any) -> bytes:
    return request


def ask(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_each_service_has_its_own_entry(make_service: Any) -> None:
    services = (make_service(unary=echo), make_service(unary=echo, name="test.v1.Other"))
    async with serve_in_process(*services) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE, "test.v1.Other"):
            assert (await health.Check(ask(name))).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            await health.Check(ask("test.v1.Unknown"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("trouble", ["says no", "raises", "hangs", "holds on"])
async def test_health_follows_a_dependency(trouble: str, make_service: Any, make_settings: Any) -> None:
    well = asyncio.Event()

    async def dependency_is_there() -> bool:
        if well.is_set():
            return True
        if trouble == "raises":
            raise OSError("connection refused")
        if trouble == "hangs":
            await well.wait()
        if trouble == "holds on":
            # Its cancellation waits for what it does.
            await unbroken(well.wait())
        return False

    services = (
        make_service(unary=echo, readiness=dependency_is_there),
        make_service(unary=echo, name="test.v1.Other"),
    )
    settings = make_settings(readiness_interval_seconds=0.01)
    async with serve_in_process(*services, settings=settings) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(ask(SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        assert (await health.Check(ask(""))).status == NOT_SERVING
        assert (await health.Check(ask("test.v1.Other"))).status == SERVING
        well.set()
        assert (await watch.read()).status == SERVING
        well.clear()
        assert (await watch.read()).status == NOT_SERVING


async def test_a_problem_is_logged_once_until_it_is_another(make_service: Any, make_settings: Any) -> None:
    problems = ["away"] * 5 + ["refused"] * 5

    async def readiness() -> bool:
        if problems:
            raise OSError(problems.pop(0))
        return True

    settings = make_settings(readiness_interval_seconds=0.001)
    with capture_logs() as logged:
        async with serve_in_process(make_service(unary=echo, readiness=readiness), settings=settings) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(ask(SERVICE))
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                while (await watch.read()).status != SERVING:
                    pass
    assert [each["error"] for each in logged if each["event"] == "readiness_check_failed"] == ["away", "refused"]


async def test_a_service_that_is_not_ready_is_looked_at_more_often(make_service: Any, make_settings: Any) -> None:
    answers = [False, False, True]

    async def readiness() -> bool:
        return answers.pop(0)

    settings = make_settings(readiness_interval_seconds=3600.0)
    async with serve_in_process(make_service(unary=echo, readiness=readiness), settings=settings) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(ask(SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            assert (await watch.read()).status == SERVING
    assert answers == []


async def test_drain_turns_health_first_and_lets_calls_finish(make_service: Any, make_settings: Any) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: bytes, context: Any) -> bytes:
        entered.set()
        await go_on.wait()
        return request

    settings = make_settings(drain_delay_seconds=30.0, drain_grace_seconds=30.0)
    async with run_in_process(make_service(unary=hold), settings=settings) as running:
        call = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)
        held = call(b"held")
        await entered.wait()
        watch = health_pb2_grpc.HealthStub(running.channel).Watch(ask(SERVICE))
        assert (await watch.read()).status == SERVING
        draining = asyncio.create_task(running.server.drain(asyncio.Event()))
        assert (await watch.read()).status == NOT_SERVING
        assert (await health_pb2_grpc.HealthStub(running.channel).Check(ask(""))).status == NOT_SERVING
        # Balancers need a moment to notice: until then calls are still taken.
        late = call(b"late")
        go_on.set()
        assert [await held, await late] == [b"held", b"late"]
        draining.cancel()


async def test_a_drain_ends_long_streams_and_does_not_wait_for_them(make_service: Any, make_settings: Any) -> None:
    async def watch_forever(request: bytes, context: Any) -> Any:
        yield b"started"
        await asyncio.Event().wait()

    service = make_service(server_stream=watch_forever, unbounded_methods=frozenset({"ServerStream"}))
    # A grace far above the test's time limit: the drain must not need it.
    async with run_in_process(service, settings=make_settings(drain_grace_seconds=3600.0)) as running:
        stream = running.channel.unary_stream(f"/{SERVICE}/ServerStream", as_bytes, as_bytes)(b"")
        assert await stream.read() == b"started"
        health_watch = health_pb2_grpc.HealthStub(running.channel).Watch(ask(""))
        await health_watch.read()
        await running.server.drain(asyncio.Event())
        with pytest.raises(grpc.RpcError) as caught:
            await stream.read()
    error = from_rpc_error(caught.value)
    assert (type(error), error.reason) == (UnavailableError, "SERVER_DRAINING")


async def test_a_second_request_cuts_the_drain_short(make_service: Any, make_settings: Any) -> None:
    entered = asyncio.Event()

    async def hold(request: bytes, context: Any) -> bytes:
        entered.set()
        await asyncio.Event().wait()
        return b""

    settings = make_settings(drain_grace_seconds=3600.0, default_deadline_seconds=3600.0)
    async with run_in_process(make_service(unary=hold), settings=settings) as running:
        held = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"")
        await entered.wait()
        at_once = asyncio.Event()
        draining = asyncio.create_task(running.server.drain(at_once))
        at_once.set()
        await draining
        with pytest.raises(grpc.RpcError):
            await held


async def test_a_watcher_that_leaves_makes_no_other_deaf(make_service: Any, make_settings: Any) -> None:
    is_ready = True

    async def dependency_is_there() -> bool:
        return is_ready

    settings = make_settings(readiness_interval_seconds=0.01)
    service = make_service(unary=echo, readiness=dependency_is_there)
    async with serve_in_process(service, settings=settings) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        leaves, stays = health.Watch(ask(SERVICE)), health.Watch(ask(SERVICE))
        for watch in (leaves, stays):
            assert (await watch.read()).status == SERVING
        leaves.cancel()
        for _ in range(10):
            await health.Check(ask(SERVICE))
        is_ready = False
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            assert (await stays.read()).status == NOT_SERVING
