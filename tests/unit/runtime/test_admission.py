"""A bounded number of calls run, a bounded number wait in order, and the rest are told when to come back."""

import asyncio
from typing import Any

import grpc
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.runtime.calls import bind_ids
from services.runtime.errors import ResourceExhaustedError, from_rpc_error
from services.runtime.interceptors.admission import Gate
from services.runtime.testing import as_bytes, run_in_process, serve_in_process
from tests.patience import GROWING_SECONDS, until

UNARY = "/test.v1.TestService/Unary"


class GateMachine(RuleBasedStateMachine):
    """Calls come, leave and give up in any order; the model is two lists."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.gate = Gate("m", max_running=2, max_queued=3)
        self.running = 0
        self.waiting: list[asyncio.Task[None]] = []

    def teardown(self) -> None:
        for task in self.waiting:
            task.cancel()
        self.settle()
        self.loop.close()

    def settle(self) -> None:
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def come(self) -> None:
        if self.gate.try_enter():
            assert self.running < 2
            self.running += 1
            return
        assert self.running == 2
        task = self.loop.create_task(self.gate.enter())
        self.settle()
        if len(self.waiting) == 3:
            assert isinstance(task.exception(), ResourceExhaustedError)
        else:
            self.waiting.append(task)

    @precondition(lambda self: self.running)
    @rule(give_up=st.booleans())
    def leave(self, give_up: bool) -> None:
        self.gate.leave(0.1)
        self.running -= 1
        if self.waiting:
            first = self.waiting.pop(0)
            if give_up:
                # In the same moment in which the place is handed over.
                first.cancel()
                self.settle()
                if self.waiting:
                    self.waiting.pop(0)
                    self.running += 1
            else:
                self.running += 1
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        task.cancel()
        self.settle()

    @invariant()
    def the_gate_agrees(self) -> None:
        assert self.gate.running == self.running
        assert self.gate.queued == len(self.waiting)
        assert not any(task.done() for task in self.waiting)


TestGate = GateMachine.TestCase


async def enter(gate: Gate, caller: str, order: list[str]) -> None:
    with bind_ids(caller=caller):
        await gate.enter()
    order.append(caller)


async def test_callers_get_places_in_turn() -> None:
    gate, order = Gate("m", max_running=1, max_queued=60), list[str]()
    assert gate.try_enter()
    async with asyncio.TaskGroup() as group:
        for caller, count in (("much", 50), ("few", 3)):
            for _ in range(count):
                group.create_task(enter(gate, caller, order))
        await asyncio.sleep(0)
        assert (gate.running, gate.queued) == (1, 53)
        for _ in range(53):
            gate.leave(0.1)
    assert order.index("few") <= 1
    assert "few" not in order[7:]


async def test_of_a_full_queue_who_has_most_is_sent_away() -> None:
    gate, order = Gate("m", max_running=1, max_queued=4), list[str]()
    assert gate.try_enter()
    much = [asyncio.create_task(enter(gate, "much", order)) for _ in range(4)]
    await asyncio.sleep(0)
    few = [asyncio.create_task(enter(gate, "few", order)) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    # The last two of much made room, and then few has as many.
    assert [each.done() for each in (*much, *few)] == [False, False, True, True, False, False, True]
    assert gate.rejected == 3
    for each in (*much[2:], few[2]):
        assert isinstance(each.exception(), ResourceExhaustedError)
    for _ in range(4):
        gate.leave(0.1)
    await asyncio.gather(*much[:2], *few[:2])
    assert sorted(order) == ["few", "few", "much", "much"]
    assert (gate.running, gate.queued) == (1, 0)


async def test_who_gives_up_in_the_moment_of_being_sent_away_frees_no_place() -> None:
    gate, order = Gate("m", max_running=1, max_queued=2), list[str]()
    assert gate.try_enter()
    much = [asyncio.create_task(enter(gate, "much", order)) for _ in range(2)]
    await asyncio.sleep(0)
    few = asyncio.create_task(enter(gate, "few", order))
    await asyncio.sleep(0)
    assert not much[1].done()
    much[1].cancel()
    await asyncio.wait([much[1]])
    assert not few.done()
    assert (gate.running, gate.queued, gate.rejected) == (1, 2, 1)
    for each in (much[0], few):
        each.cancel()
    await asyncio.wait([much[0], few])
    assert (gate.running, gate.queued) == (1, 0)


class Holding:
    """A handler that holds its place until told to go on."""

    def __init__(self) -> None:
        self.entered = asyncio.Queue[bytes]()
        self.held: set[bytes] = set()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Queue[bytes]()

    async def __call__(self, request: bytes, context: Any) -> bytes:
        self.entered.put_nowait(request)
        self.held.add(request)
        try:
            await self.go_on.wait()
        finally:
            self.ended.put_nowait(request)
        return request


async def test_overflow_is_refused_with_a_time_to_come_back(make_service: Any, make_settings: Any) -> None:
    holding = Holding()
    settings = make_settings(max_concurrent_calls=1, max_queued_calls=0)
    async with run_in_process(make_service(unary=holding.__call__), settings=settings) as running:
        call = running.channel.unary_unary(UNARY, as_bytes, as_bytes)
        held = call(b"held")
        await holding.entered.get()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"refused")
        # Probes get through however full the service is.
        check = running.channel.unary_unary("/grpc.health.v1.Health/Check", as_bytes, as_bytes)
        assert await check(b"") == b"\x08\x01"
        values = {
            name: running.registry.get_sample_value(name, {"grpc_method": "test.v1.TestService/Unary"})
            for name in ("evalfleet_calls_running", "evalfleet_calls_queued", "evalfleet_calls_rejected_total")
        }
        refused = {"grpc_method": "test.v1.TestService/Unary", "grpc_status": "RESOURCE_EXHAUSTED"}
        assert running.registry.get_sample_value("grpc_server_call_duration_seconds_count", refused) == 1
        holding.go_on.set()
        assert await held == b"held"
    error = from_rpc_error(caught.value)
    assert isinstance(error, ResourceExhaustedError)
    assert error.reason == "TOO_MANY_CALLS"
    assert error.retry_after_seconds is not None
    pushback = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
    assert int(pushback) == int(error.retry_after_seconds * 1000)
    assert values == {
        "evalfleet_calls_running": 1,
        "evalfleet_calls_queued": 0,
        "evalfleet_calls_rejected_total": 1,
    }


async def test_one_full_method_leaves_the_others_alone(make_service: Any, make_settings: Any) -> None:
    holding = Holding()

    async def echo(requests: Any, context: Any) -> Any:
        async for each in requests:
            yield each

    settings = make_settings(max_concurrent_calls=1, max_queued_calls=0)
    async with serve_in_process(make_service(unary=holding.__call__, bidi=echo), settings=settings) as channel:
        held = channel.unary_unary(UNARY, as_bytes, as_bytes)(b"held")
        await holding.entered.get()
        stream = channel.stream_stream("/test.v1.TestService/Bidi", as_bytes, as_bytes)(iter([b"a"]))
        assert [each async for each in stream] == [b"a"]
        holding.go_on.set()
        await held


@pytest.mark.parametrize("ending", ["cancel", "deadline"])
async def test_a_call_that_ends_early_frees_its_place(ending: str, make_service: Any, make_settings: Any) -> None:
    holding = Holding()
    settings = make_settings(max_concurrent_calls=1, max_queued_calls=1)
    async with serve_in_process(make_service(unary=holding.__call__), settings=settings) as channel:
        call = channel.unary_unary(UNARY, as_bytes, as_bytes)
        for allowed_seconds in GROWING_SECONDS if ending == "deadline" else (None,):
            name = f"first, {allowed_seconds} s".encode()
            first = asyncio.ensure_future(call(name, timeout=allowed_seconds))
            await until(lambda: name in holding.held or first.done())  # noqa: B023 - awaited here
            if name in holding.held:
                break
        second = asyncio.ensure_future(call(b"second"))
        if ending == "cancel":
            first.cancel()
        while await holding.ended.get() != name:
            pass
        while await holding.entered.get() != b"second":
            pass
        holding.go_on.set()
        assert await second == b"second"


async def test_a_call_cancelled_in_the_queue_never_runs(make_service: Any, make_settings: Any) -> None:
    holding = Holding()
    settings = make_settings(max_concurrent_calls=1, max_queued_calls=1)
    async with run_in_process(make_service(unary=holding.__call__), settings=settings) as running:
        call = running.channel.unary_unary(UNARY, as_bytes, as_bytes)

        def queued() -> float | None:
            labels = {"grpc_method": "test.v1.TestService/Unary"}
            return running.registry.get_sample_value("evalfleet_calls_queued", labels)

        first = call(b"first")
        await holding.entered.get()
        leaving = asyncio.ensure_future(call(b"leaves"))
        await until(lambda: queued() == 1)
        leaving.cancel()
        await until(lambda: queued() == 0)
        for allowed_seconds in GROWING_SECONDS:
            late = asyncio.ensure_future(call(b"waits too long", timeout=allowed_seconds))
            await until(lambda: queued() == 1 or late.done())  # noqa: B023 - awaited here
            was_queued = queued() == 1
            await asyncio.wait([late])
            await until(lambda: queued() == 0)
            if was_queued:
                break
        third = call(b"third")
        await until(lambda: queued() == 1)
        holding.go_on.set()
        assert [await first, await third] == [b"first", b"third"]
        assert await holding.entered.get() == b"third"
    error = late.exception()
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
