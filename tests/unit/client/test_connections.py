"""Single calls over real gRPC, blocking and awaited: repeated, bounded, named, hedged, cancelled."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import grpc
import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.aio.connections import AsyncConnection
from evalfleet.errors import (
    DeadlineExceededError,
    EvalFleetError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from evalfleet.fleet import Fleet
from evalfleet.hedging import Hedging
from evalfleet.results import Decision, Verdict
from evalfleet.retrying import DEFAULT_RETRIES, NO_RETRIES, RetryPolicy
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from evalfleet.verdicts import Conversation

from tests.fakes.scripted_safety import ScriptedSafety, hang, refuse, serve
from tests.patience import LONGEST_WAIT_SECONDS

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
BAKING: Conversation = [("user", "How do I bake bread?")]
AT_ONCE = RetryPolicy(first_pause_seconds=0.001)

Ask: TypeAlias = Callable[..., Verdict]


@pytest.fixture
def safety() -> Iterator[ScriptedSafety]:
    with serve(ScriptedSafety()) as running:
        yield running


def nothing() -> None:
    """Do nothing before the fleet is closed, which would cancel whatever is still asked."""


def classify(
    target: str,
    *,
    retries: RetryPolicy = AT_ONCE,
    hedging: Hedging | None = None,
    calls: int = 1,
    then: Callable[[], object] = nothing,
) -> Verdict:
    with Fleet.connect({"safety": target}, retries=retries, hedging=hedging) as fleet:
        for _ in range(calls - 1):
            fleet.safety.classify(BAKING)
        verdict = fleet.safety.classify(BAKING)
        then()
        return verdict


def classify_awaited(
    target: str,
    *,
    retries: RetryPolicy = AT_ONCE,
    hedging: Hedging | None = None,
    calls: int = 1,
    then: Callable[[], object] = nothing,
) -> Verdict:
    async def ask() -> Verdict:
        async with AsyncFleet.connect({"safety": target}, retries=retries, hedging=hedging) as fleet:
            for _ in range(calls - 1):
                await fleet.safety.classify(BAKING)
            verdict = await fleet.safety.classify(BAKING)
            await asyncio.to_thread(then)
            return verdict

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [classify, classify_awaited])


@both
def test_a_call_is_repeated_under_one_request_id_until_it_is_answered(safety: ScriptedSafety, ask: Ask) -> None:
    safety.script = [refuse(UNAVAILABLE), refuse(UNAVAILABLE)]
    assert ask(safety.target).decision is Decision.SAFE
    assert len(safety.calls) == 3
    [request_id] = {each.metadata["x-request-id"] for each in safety.calls}
    assert len(request_id) == 32


@both
def test_an_error_names_the_request_as_the_services_logs_do(safety: ScriptedSafety, ask: Ask) -> None:
    safety.script = [refuse(grpc.StatusCode.INTERNAL)]
    with pytest.raises(InternalError) as caught:
        ask(safety.target)
    [call] = safety.calls
    assert caught.value.request_id == call.metadata["x-request-id"]


@both
def test_a_service_that_stays_away_is_given_up_after_four_tries(safety: ScriptedSafety, ask: Ask) -> None:
    safety.script = [refuse(UNAVAILABLE)] * 9
    with pytest.raises(UnavailableError):
        ask(safety.target)
    assert len(safety.calls) == DEFAULT_RETRIES.attempts


@both
def test_pushback_is_obeyed(safety: ScriptedSafety, ask: Ask) -> None:
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    safety.script = [refuse(full, pushback_milliseconds=1), refuse(full, pushback_milliseconds=-1)]
    with pytest.raises(ResourceExhaustedError) as caught:
        ask(safety.target)
    assert len(safety.calls) == 2
    assert caught.value.is_retry_refused


@both
def test_retries_can_be_turned_off(safety: ScriptedSafety, ask: Ask) -> None:
    safety.script = [refuse(UNAVAILABLE)]
    with pytest.raises(UnavailableError):
        ask(safety.target, retries=NO_RETRIES)
    assert len(safety.calls) == 1


def prepared(safety: ScriptedSafety, *slow: Any) -> None:
    """Have 20 calls answered at once, and the next ones be slow."""
    safety.script = [lambda context: None] * 20 + list(slow)


@both
def test_a_slow_call_is_asked_twice_and_the_loser_is_cancelled(safety: ScriptedSafety, ask: Ask) -> None:
    prepared(safety, hang)

    def the_slow_one_has_ended() -> None:
        assert safety.calls[20].ended.wait(LONGEST_WAIT_SECONDS), "nobody answered it, so that it was not cancelled"

    verdict = ask(safety.target, hedging=Hedging(budget=1.0), calls=21, then=the_slow_one_has_ended)
    assert verdict.decision is Decision.SAFE
    slow, second = safety.calls[-2:]
    assert slow.metadata["x-request-id"] == second.metadata["x-request-id"]


@both
def test_a_hedged_call_survives_one_failure_and_tells_the_last(safety: ScriptedSafety, ask: Ask) -> None:
    prepared(safety, lambda context: _after(safety, 22), refuse(grpc.StatusCode.INTERNAL))
    assert ask(safety.target, hedging=Hedging(budget=1.0), calls=21).decision is Decision.SAFE
    assert len(safety.calls) == 22

    safety.calls.clear()
    prepared(safety, refuse(grpc.StatusCode.INTERNAL))
    with pytest.raises(InternalError):
        ask(safety.target, hedging=Hedging(budget=1.0), calls=21)


def _after(safety: ScriptedSafety, count: int) -> None:
    """Wait until so many calls have come and the last of them has ended."""
    give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
    while len(safety.calls) < count:
        assert time.monotonic() < give_up_at, "the second request did not come"
        threading.Event().wait(0.005)
    assert safety.calls[count - 1].ended.wait(LONGEST_WAIT_SECONDS)


@both
def test_without_hedging_a_call_is_asked_once(safety: ScriptedSafety, ask: Ask) -> None:
    assert ask(safety.target, calls=25).decision is Decision.SAFE
    assert len(safety.calls) == 25


def test_a_call_ends_with_its_deadline(safety: ScriptedSafety) -> None:
    safety.script = [hang, hang]
    with Fleet.connect({"safety": safety.target}) as fleet:
        connection = fleet._connection("safety")
        stub = connection.stub(safety_pb2_grpc.SafetyServiceStub)
        with pytest.raises(DeadlineExceededError):
            connection.call(stub.Classify, safety_pb2.ClassifyRequest(), timeout_seconds=0.05)

    async def ask() -> None:
        async with AsyncFleet.connect({"safety": safety.target}) as fleet:
            connection = fleet._connection("safety")
            stub = connection.stub(safety_pb2_grpc.SafetyServiceStub)
            await connection.call(stub.Classify, safety_pb2.ClassifyRequest(), timeout_seconds=0.05)

    with pytest.raises(DeadlineExceededError):
        asyncio.run(ask())


async def cancelled(call: Coroutine[Any, Any, object], has_begun: Callable[[], bool]) -> None:
    task = asyncio.create_task(call)
    while not has_begun():  # noqa: ASYNC110 - the service runs in threads
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("hedging", [None, Hedging()])
async def test_a_cancelled_task_cancels_its_call_on_the_wire(safety: ScriptedSafety, hedging: Hedging | None) -> None:
    safety.script = [hang]
    async with AsyncFleet.connect({"safety": safety.target}, hedging=hedging) as fleet:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await cancelled(fleet.safety.classify([("user", "x")]), lambda: bool(safety.calls))
        assert await asyncio.to_thread(safety.calls[0].ended.wait, LONGEST_WAIT_SECONDS)


def test_one_fleet_serves_several_event_loops(safety: ScriptedSafety) -> None:
    fleet = AsyncFleet.connect({"safety": safety.target})

    async def ask() -> Decision:
        return (await fleet.safety.classify([("user", "x")])).decision

    # As cells of a notebook or tests do, each with a loop of its own.
    assert [asyncio.run(ask()) for _ in range(3)] == [Decision.SAFE] * 3
    asyncio.run(fleet.close())


def test_channels_of_event_loops_that_have_ended_are_let_go(safety: ScriptedSafety) -> None:
    connection = AsyncConnection("safety", safety.target)
    channels: list[weakref.ref[object]] = []

    async def ask() -> None:
        stub: safety_pb2_grpc.SafetyServiceAsyncStub = connection.stub(safety_pb2_grpc.SafetyServiceStub)
        await connection.call(stub.Classify, safety_pb2.ClassifyRequest())
        assert connection._open is not None
        channels.append(weakref.ref(connection._open.channel))

    for _ in range(4):
        asyncio.run(ask())
    gc.collect()
    assert [each() is None for each in channels] == [True, True, True, False]
    asyncio.run(connection.close())


async def test_an_unreachable_service_is_a_typed_error(safety: ScriptedSafety) -> None:
    async with AsyncFleet.connect({"safety": "127.0.0.1:1"}, retries=NO_RETRIES) as fleet:
        with pytest.raises(UnavailableError, match=r"the safety service at 127.0.0.1:1 cannot be reached"):
            await fleet.safety.classify([("user", "x")])
        with pytest.raises(EvalFleetError, match="cannot be reached"):
            _ = [each async for each in fleet.safety.classify_many([[("user", "x")]], patience_seconds=0.01)]
