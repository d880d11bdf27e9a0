"""What is known of one server is what it said last, whatever was under way meanwhile."""

import asyncio

import pytest

from services.generation.backend import Deployment
from services.generation.errors import CheckpointError, ModelControlRefusedError, ModelLostError
from services.generation.pool.member import Connection, Member
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import DeadlineExceededError
from tests.fakes.inference_backend import FakeInferenceBackend
from tests.patience import LONGEST_WAIT_SECONDS, until

MODEL = Deployment("m", "/c/m", "float32")


@pytest.fixture
def server() -> FakeInferenceBackend:
    return FakeInferenceBackend()


@pytest.fixture
async def member(server: FakeInferenceBackend) -> Member:
    async def nothing(*_: object) -> None:
        """Close, or find in order."""

    member = Member("a", Connection(server, nothing), nothing)
    await refresh(member)
    assert await load(member) is None
    return member


async def refresh(member: Member) -> None:
    await member.refresh(timeout_seconds=LONGEST_WAIT_SECONDS)


async def load(member: Member) -> object:
    return await member.load(MODEL, timeout_seconds=LONGEST_WAIT_SECONDS)


@pytest.mark.parametrize("reason", ["INFERENCE_UNAVAILABLE", "ENGINE_CRASHED", "MODEL_NOT_LOADED"])
async def test_late_news_of_a_loss_says_nothing_of_what_was_loaded_since(
    member: Member, server: FakeInferenceBackend, reason: str
) -> None:
    epoch = member.begin()
    server.kill()
    await refresh(member)
    assert not member.is_ready
    server.is_up = True
    await refresh(member)
    assert member.names == set()
    await load(member)
    member.lost("m", ModelLostError("gone", reason=reason, engine_crashed=reason == "ENGINE_CRASHED"), epoch)
    assert (member.is_ready, member.names) == (True, {"m"})
    member.lost("m", ModelLostError("gone", reason=reason), member.begin())
    assert member.names == set()
    assert member.stirred.is_set()


async def test_a_list_that_was_made_before_a_load_does_not_take_the_model_away(
    member: Member, server: FakeInferenceBackend
) -> None:
    server.loaded.clear()
    server.list_gate = asyncio.Event()
    listed = server.lists
    listing = asyncio.create_task(refresh(member))
    await until(lambda: server.lists > listed)
    assert await load(member) is None
    server.list_gate.set()
    await listing
    assert member.names == {"m"}


async def test_a_list_that_was_made_before_an_unload_does_not_bring_the_model_back(
    member: Member, server: FakeInferenceBackend
) -> None:
    server.list_gate = asyncio.Event()
    listed = server.lists
    listing = asyncio.create_task(refresh(member))
    await until(lambda: server.lists > listed)
    await member.unload("m", timeout_seconds=LONGEST_WAIT_SECONDS)
    server.list_gate.set()
    await listing
    assert member.names == set()


async def test_whoever_loads_at_once_waits_for_the_same_load_and_an_unload_for_none(
    member: Member, server: FakeInferenceBackend
) -> None:
    await member.unload("m", timeout_seconds=LONGEST_WAIT_SECONDS)
    server.loads.clear()
    server.load_gate = asyncio.Event()
    with bind_deadline(1.0):
        first, second = (member.load(MODEL, timeout_seconds=LONGEST_WAIT_SECONDS) for _ in range(2))
    assert first is second
    await until(lambda: bool(server.loads))
    assert server.load_deadlines[-1] is None, "a load is to outlive the call that began it"
    await member.unload("m", timeout_seconds=LONGEST_WAIT_SECONDS)
    assert first.cancelled()
    assert server.loads == ["m"]


async def test_a_load_waits_for_an_unload_of_the_same(member: Member, server: FakeInferenceBackend) -> None:
    release, order = asyncio.Event(), list[str]()
    unload = server.unload

    async def slow(name: str, *, timeout_seconds: float) -> None:
        order.append("unload")
        await release.wait()
        await unload(name, timeout_seconds=timeout_seconds)

    server.unload = slow  # type: ignore[method-assign]
    unloading = asyncio.create_task(member.unload("m", timeout_seconds=LONGEST_WAIT_SECONDS))
    await until(lambda: bool(order))
    loading = member.load(MODEL, timeout_seconds=LONGEST_WAIT_SECONDS)
    release.set()
    await unloading
    assert await loading is None
    assert ("m" in server.loaded, member.names) == (True, {"m"})


async def test_what_a_server_refuses_is_not_tried_at_once_again_until_it_is_unloaded(
    member: Member, server: FakeInferenceBackend
) -> None:
    server.load_errors = [CheckpointError("no room")]
    refused = await load(member)
    assert isinstance(refused, CheckpointError)
    assert member.is_postponed("m")
    assert not member.is_postponed("n")
    await member.unload("m", timeout_seconds=LONGEST_WAIT_SECONDS)
    assert not member.is_postponed("m")


async def test_a_server_that_is_lost_while_it_loads_is_away(member: Member, server: FakeInferenceBackend) -> None:
    server.kill()
    assert isinstance(await load(member), ModelLostError)
    assert not member.is_ready
    assert not member.is_postponed("m")


@pytest.mark.parametrize(
    ("error", "is_ready"), [(ModelControlRefusedError(), True), (DeadlineExceededError("busy"), False)]
)
async def test_a_new_server_that_tells_nothing_takes_requests_only_to_say_why(
    server: FakeInferenceBackend, monkeypatch: pytest.MonkeyPatch, error: Exception, is_ready: bool
) -> None:
    async def refuse(*, timeout_seconds: float) -> frozenset[str]:
        raise error

    async def nothing(*_: object) -> None:
        """Close, or find in order."""

    monkeypatch.setattr(server, "loaded_names", refuse)
    member = Member("a", Connection(server, nothing), nothing)
    await refresh(member)
    assert (member.was_asked, member.is_ready) == (True, is_ready)
