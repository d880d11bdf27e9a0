"""What happens to models, and to the memory booked for them, when an eviction or a load does not go as planned."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from services.generation.models import ModelRecord, ModelState
from services.generation.registration import Registration
from services.generation.requests import GenerationRequest, GenerationResult
from services.generation.residency import MemoryLimits
from services.runtime.errors import DeadlineExceededError, UnavailableError
from tests.fakes.generation_domain import Domain, StartDomain
from tests.fakes.inference_backend import write_checkpoint
from tests.patience import LONGEST_WAIT_SECONDS

ROOM_FOR_ONE = MemoryLimits(budget_bytes=150, overhead_bytes=100, patience_seconds=0.02)


async def register(domain: Domain, tmp_path: Path, name: str, content: str = "") -> ModelRecord:
    folder = write_checkpoint(tmp_path / "checkpoints" / (content or name), content=content or name)
    return await domain.registrar.create(Registration(str(folder), name))


def states(domain: Domain) -> dict[str, str]:
    return {record.model_id: record.state.value for record in domain.lifecycle.records()}


async def busy(domain: Domain) -> "asyncio.Future[GenerationResult]":
    """Return a request to model a that stays in flight until the gate opens."""
    domain.backend.gate = asyncio.Event()
    asked = asyncio.ensure_future(domain.generator.generate(GenerationRequest("a", "hello")))
    await domain.backend.until(lambda: domain.backend.in_flight == 1)
    return asked


async def until_leaving(domain: Domain) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not domain.lifecycle.memory.is_leaving("a"):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


async def test_a_model_deleted_while_it_was_to_leave_does_not_come_back(
    start_domain: StartDomain, tmp_path: Path
) -> None:
    domain = await start_domain(memory=ROOM_FOR_ONE)
    await register(domain, tmp_path, "a")
    asked = await busy(domain)
    newcomer = asyncio.ensure_future(register(domain, tmp_path, "b"))
    await until_leaving(domain)
    await domain.lifecycle.delete("a")
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await newcomer  # the room is there, whether or not its last request has noticed
    assert domain.backend.gate is not None
    domain.backend.gate.set()
    await asyncio.gather(asked, return_exceptions=True)
    assert states(domain) == {"b": "ready"}
    assert domain.lifecycle.memory.booked_bytes == 104
    assert domain.lifecycle.memory.evictions == 0


async def test_what_is_registered_meanwhile_under_the_id_of_a_model_that_leaves_is_never_overwritten(
    start_domain: StartDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = await start_domain(memory=ROOM_FOR_ONE)
    old = await register(domain, tmp_path, "a")
    asked = await busy(domain)
    newcomer = asyncio.ensure_future(register(domain, tmp_path, "b"))
    await until_leaving(domain)
    await domain.lifecycle.delete("a")
    written: list[str] = []
    put = domain.registry.put

    async def watched(record: ModelRecord, *more: Any) -> None:
        written.append(record.digest)
        await put(record, *more)

    monkeypatch.setattr(domain.registry, "put", watched)
    again = asyncio.ensure_future(register(domain, tmp_path, "a", "others"))
    assert domain.backend.gate is not None
    domain.backend.gate.set()
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await asyncio.gather(asked, newcomer, again, return_exceptions=True)
    assert (await again).digest in written
    assert old.digest not in written


async def test_a_model_that_is_lost_while_another_looks_for_room_keeps_nobody_out(
    start_domain: StartDomain, tmp_path: Path
) -> None:
    domain = await start_domain(memory=MemoryLimits(budget_bytes=150, overhead_bytes=100, patience_seconds=0.3))
    await register(domain, tmp_path, "a")
    asked = await busy(domain)
    newcomer = asyncio.ensure_future(register(domain, tmp_path, "b"))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not domain.lifecycle.memory._door.locked():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    domain.backend.loaded.clear()
    assert domain.backend.gate is not None
    domain.backend.gate.set()
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        assert (await newcomer).model_id == "b"
        assert (await asked).completions[0].text.split("|")[1] == "hello"


async def test_a_model_does_not_fail_because_another_does_not_leave(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_ONE, reconcile=False)
    await register(domain, tmp_path, "a")
    domain.backend.unload_errors = [DeadlineExceededError("too slow", reason="INFERENCE_TIMEOUT")]
    with pytest.raises(UnavailableError) as caught:
        await register(domain, tmp_path, "b")
    assert caught.value.retry_after_seconds
    assert states(domain) == {"a": "evicted", "b": "loading"}
    assert domain.lifecycle.memory.booked_bytes == 104  # a may be there still


async def test_a_model_that_did_not_leave_in_time_is_unloaded_by_the_loop(
    start_domain: StartDomain, tmp_path: Path
) -> None:
    domain = await start_domain(memory=ROOM_FOR_ONE)
    await register(domain, tmp_path, "a")
    domain.backend.unload_errors = [DeadlineExceededError("too slow", reason="INFERENCE_TIMEOUT")]
    with pytest.raises(UnavailableError):
        await register(domain, tmp_path, "b")
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while states(domain)["b"] != "ready":  # noqa: ASYNC110 - the loop of the service does it
            await asyncio.sleep(0.01)
    assert [each.split("-")[1] for each in domain.backend.loaded] == ["b"]
    assert domain.lifecycle.memory.booked_bytes == 104


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk full"), RuntimeError("a mistake")])
async def test_a_load_whose_outcome_cannot_be_written_returns_its_memory(
    start_domain: StartDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    domain = await start_domain(memory=ROOM_FOR_ONE, reconcile=False)
    put = domain.registry.put

    async def failing(record: ModelRecord, *more: Any) -> None:
        if record.state is ModelState.READY:
            raise error
        await put(record, *more)

    with monkeypatch.context() as patched:
        patched.setattr(domain.registry, "put", failing)
        with pytest.raises(type(error)):
            await register(domain, tmp_path, "a")
    assert domain.lifecycle.memory.booked_bytes == 0
    await register(domain, tmp_path, "b")
    assert states(domain) == {"a": "loading", "b": "ready"}


async def test_little_is_remembered_of_models_that_are_gone(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_ONE)
    await register(domain, tmp_path, "a")
    asked = await busy(domain)
    await domain.lifecycle.delete("a")
    assert domain.backend.gate is not None
    domain.backend.gate.set()
    await asyncio.gather(asked, return_exceptions=True)
    assert domain.lifecycle.memory._last_use == {}
    assert domain.lifecycle._activations.dropped == {}


async def test_a_dropped_load_is_looked_for_until_it_turned_up(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_ONE)
    domain.backend.load_gate = asyncio.Event()
    creating = asyncio.create_task(register(domain, tmp_path, "a"))
    await domain.backend.loading.wait()
    deployment = domain.lifecycle.get("a").deployment
    await domain.lifecycle.delete("a")
    await asyncio.gather(creating, return_exceptions=True)
    assert domain.lifecycle._activations.dropped.keys() == {deployment.name}
    unloaded = len(domain.backend.unloads)
    domain.backend.loaded[deployment.name] = deployment
    await domain.backend.until(lambda: len(domain.backend.unloads) > unloaded)
    lists = domain.backend.lists
    await domain.backend.until(lambda: domain.backend.lists > lists)
    assert domain.lifecycle._activations.dropped == {}
