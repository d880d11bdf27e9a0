"""Handlers are bounded by their caller's deadline or the default, and pass on less than they have."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from services.runtime.calls import CallScope
from services.runtime.channels import open_channel
from services.runtime.deadlines import bind_deadline, remaining_seconds
from services.runtime.errors import DeadlineExceededError, from_rpc_error
from services.runtime.interceptors import deadline
from services.runtime.interceptors.call import Context, HandledCall, MethodRules
from services.runtime.interceptors.deadline import Deadlines
from services.runtime.testing import as_bytes, run_in_process, serve_in_process

UNARY = "/test.v1.TestService/Unary"
STREAM = "/test.v1.TestService/ServerStream"


async def tell_remaining(request: bytes, context: Any) -> bytes:
    return repr(remaining_seconds()).encode()


async def test_a_call_without_deadline_gets_the_default(make_service: Any, make_settings: Any) -> None:
    async with serve_in_process(
        make_service(unary=tell_remaining), settings=make_settings(default_deadline_seconds=700.0)
    ) as channel:
        assert 0 < float(await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"")) <= 700.0


async def test_the_callers_deadline_replaces_the_default(make_service: Any, make_settings: Any) -> None:
    async with serve_in_process(
        make_service(unary=tell_remaining), settings=make_settings(default_deadline_seconds=0.001)
    ) as channel:
        assert 100 < float(await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"", timeout=1000.0)) < 1000.0


async def test_two_hops_each_have_less_time_than_the_one_before(make_service: Any) -> None:
    async with run_in_process(make_service(unary=tell_remaining)) as inner, open_channel(inner.address) as onward:

        async def relay(request: bytes, context: Any) -> bytes:
            mine = remaining_seconds()
            # The explicit timeout is longer than what is left, so what is left counts.
            theirs: bytes = await onward.unary_unary(UNARY, as_bytes, as_bytes)(b"", timeout=500.0)
            return f"{mine} {theirs.decode()}".encode()

        async with serve_in_process(make_service(unary=relay)) as channel:
            first, second = map(
                float, (await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"", timeout=300.0)).split()
            )
    assert 0 < second <= first - 0.05
    assert first < 300.0


async def test_a_shorter_explicit_timeout_wins(make_service: Any) -> None:
    async with serve_in_process(make_service(unary=tell_remaining)) as channel:
        with bind_deadline(500.0):
            assert float(await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"", timeout=50.0)) < 50.0


async def test_no_call_is_made_without_time_for_it(make_service: Any) -> None:
    async with serve_in_process(make_service(unary=tell_remaining)) as channel:
        with bind_deadline(0.01), pytest.raises(DeadlineExceededError) as caught:
            await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"")
    assert caught.value.reason == "NO_TIME_LEFT"


@pytest.mark.parametrize("allowed_seconds", [None, 30.0])
async def test_an_overrunning_handler_is_cancelled_and_its_caller_told(
    allowed_seconds: float | None, make_service: Any, make_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So much of its caller's time that however busy the machine is, the answer comes before the caller's clock ends.
    monkeypatch.setattr(deadline, "_REPLY_MARGIN_SECONDS", 100.0)
    monkeypatch.setattr(deadline, "_REPLY_MARGIN_SHARE", 0.985)
    cancelled = asyncio.Event()

    async def overrun(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    settings = make_settings(default_deadline_seconds=0.05)
    async with serve_in_process(make_service(unary=overrun), settings=settings) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"", timeout=allowed_seconds)
        await cancelled.wait()
    error = from_rpc_error(caught.value)
    assert isinstance(error, DeadlineExceededError)
    # Only our server sends metadata, so the answer came from it and not from the client's own clock.
    assert error.metadata["method"] == "test.v1.TestService/Unary"


@pytest.mark.parametrize("allowed_seconds", [0.001, 0.1, 0.3, 1.0, 11.0, 3600.0])
def test_a_handler_has_less_time_than_its_caller_waits(allowed_seconds: float) -> None:
    """By what gRPC may have rounded the time up on its way, and by a moment for the answer."""
    context: Any = SimpleNamespace(time_remaining=lambda: allowed_seconds * 1.01)
    budget_seconds = Deadlines(default_seconds=60.0).budget_seconds(MethodRules("test.v1.TestService/Unary"), context)
    assert budget_seconds is not None
    assert 0.85 * allowed_seconds <= budget_seconds <= allowed_seconds - min(0.02, 0.09 * allowed_seconds)


async def test_one_timer_keeps_every_deadline() -> None:
    """Calls whose time ends in another order than they began; one is over before its time."""
    deadlines = Deadlines(default_seconds=60.0)
    rules = MethodRules("test.v1.TestService/Unary")
    now = asyncio.get_running_loop().time()
    calls = []
    for allowed_seconds in (0.04, 0.01, 0.03, 0.02, 0.01):
        task = asyncio.create_task(asyncio.Event().wait())
        call = HandledCall(rules, cast("Context", None), CallScope(now + allowed_seconds), task, now)
        deadlines.opened(call)
        calls.append(call)
    in_time = calls.pop(0)
    deadlines.closed(in_time)
    await asyncio.wait([call.task for call in calls])
    assert all(isinstance(call.interruption, DeadlineExceededError) for call in calls)
    # The calls' own clocks are past the one that was closed only when its timer would have come.
    last = HandledCall(rules, cast("Context", None), CallScope(now + 0.05), in_time.task, now)
    deadlines.opened(last)
    await asyncio.wait([last.task])
    assert in_time.interruption is None
    assert last.interruption is not None


async def test_a_stream_ends_typed_even_when_its_reader_has_stopped_reading(
    make_service: Any, make_settings: Any
) -> None:
    """The handler is then inside a write that flow control holds up, not in its own code."""
    closed = asyncio.Event()

    async def flood(request: bytes, context: Any) -> Any:
        try:
            while True:
                yield bytes(1024 * 1024)
        finally:
            closed.set()

    settings = make_settings(default_deadline_seconds=0.3)
    async with serve_in_process(make_service(server_stream=flood), settings=settings) as channel:
        call = channel.unary_stream(STREAM, as_bytes, as_bytes)(b"")
        await closed.wait()
        with pytest.raises(grpc.RpcError) as caught:
            async for _ in call:
                pass
    assert isinstance(from_rpc_error(caught.value), DeadlineExceededError)


async def test_a_watch_method_opts_out_of_the_default_but_not_of_its_callers_deadline(
    make_service: Any, make_settings: Any
) -> None:
    async def watch(request: bytes, context: Any) -> Any:
        yield repr(remaining_seconds()).encode()

    service = make_service(server_stream=watch, unbounded_methods=frozenset({"ServerStream"}))
    async with serve_in_process(service, settings=make_settings(default_deadline_seconds=0.001)) as channel:
        stream = channel.unary_stream(STREAM, as_bytes, as_bytes)
        assert [each async for each in stream(b"")] == [b"None"]
        assert [float(each) < 200.0 async for each in stream(b"", timeout=200.0)] == [True]


async def test_background_work_can_lift_the_deadline_it_inherits(make_service: Any) -> None:
    tasks = []

    async def start(request: bytes, context: Any) -> bytes:
        async def work() -> float | None:
            return remaining_seconds()

        tasks.append(asyncio.create_task(work()))
        with bind_deadline(None):
            tasks.append(asyncio.create_task(work()))
        return b""

    async with serve_in_process(make_service(unary=start)) as channel:
        await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"", timeout=100.0)
        inherited, lifted = await asyncio.gather(*tasks)
    assert inherited is not None
    assert lifted is None
