"""Models under a memory budget: who goes, who stays, and that nobody who is needed is lost."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.models import ModelRecord, ModelState
from services.generation.registration import Registration
from services.generation.requests import GenerationRequest
from services.generation.residency import MemoryLimits, memory_cost
from services.generation.retention import RetentionPolicy, models_to_forget
from tests.fakes.generation_domain import Domain, StartDomain
from tests.fakes.inference_backend import write_checkpoint
from tests.patience import LONGEST_WAIT_SECONDS

ROOM_FOR_TWO = MemoryLimits(budget_bytes=250, overhead_bytes=100, patience_seconds=0.05)


async def register(domain: Domain, tmp_path: Path, *names: str) -> None:
    for name in names:
        folder = write_checkpoint(tmp_path / "checkpoints" / name, content=name)
        await domain.registrar.create(Registration(str(folder), name))


def states(domain: Domain) -> dict[str, str]:
    return {record.model_id: record.state.value for record in domain.lifecycle.records()}


async def test_the_least_recently_used_model_goes_and_comes_back(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_TWO)
    await register(domain, tmp_path, "a", "b")
    await domain.generator.generate(GenerationRequest("a", "hello"))
    await register(domain, tmp_path, "c")
    assert states(domain) == {"a": "ready", "b": "evicted", "c": "ready"}
    assert len(domain.backend.loaded) == 2
    result = await domain.generator.generate(GenerationRequest("b", "hello"))
    assert result.completions[0].text.startswith("checkpoint-b-")
    assert states(domain) == {"a": "evicted", "b": "ready", "c": "ready"}
    assert domain.lifecycle.memory.evictions == 2


async def test_a_model_with_requests_in_flight_stays(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_TWO)
    await register(domain, tmp_path, "a", "b")
    domain.backend.gate = asyncio.Event()
    running = asyncio.ensure_future(domain.generator.generate(GenerationRequest("a", "hello")))
    await domain.backend.until(lambda: domain.backend.in_flight == 1)
    await register(domain, tmp_path, "c")
    assert states(domain) == {"a": "ready", "b": "evicted", "c": "ready"}
    domain.backend.gate.set()
    await running


async def test_when_all_are_busy_the_oldest_leaves_after_its_answers(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_TWO)
    await register(domain, tmp_path, "a", "b")
    domain.backend.gate = asyncio.Event()
    running = [asyncio.ensure_future(domain.generator.generate(GenerationRequest(each, "hello"))) for each in "ab"]
    await domain.backend.until(lambda: domain.backend.in_flight == 2)
    newcomer = asyncio.ensure_future(register(domain, tmp_path, "c"))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not domain.lifecycle.memory.is_leaving("a"):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    late = asyncio.ensure_future(domain.generator.generate(GenerationRequest("a", "late")))
    assert states(domain)["a"] == "ready"
    domain.backend.gate.set()
    await newcomer
    assert [(await each).completions[0].text.split("|")[1] for each in (*running, late)] == ["hello", "hello", "late"]
    assert domain.backend.loads.count(domain.backend.loads[0]) == 2
    assert len(domain.backend.loaded) == 2


async def test_a_model_larger_than_the_budget_is_let_in_alone(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=MemoryLimits(budget_bytes=10, overhead_bytes=100))
    await register(domain, tmp_path, "a", "b")
    assert states(domain) == {"a": "evicted", "b": "ready"}


async def test_many_models_asked_at_once_all_answer(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_TWO)
    names = [f"m{index}" for index in range(6)]
    await register(domain, tmp_path, *names)
    asked = [GenerationRequest(names[index % 6], f"p{index}") for index in range(60)]
    outcomes = await domain.generator.generate_batch(asked)
    assert [getattr(each, "completions", [None])[0] is not None for each in outcomes] == [True] * 60
    assert len(domain.backend.loaded) <= 2


async def test_a_restart_loads_what_was_loaded(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_TWO)
    await register(domain, tmp_path, "a", "b", "c")
    before = states(domain)
    domain.backend.loaded.clear()
    domain = await start_domain(memory=ROOM_FOR_TWO)
    await domain.backend.until(lambda: len(domain.backend.loaded) == 2)
    assert states(domain).keys() == before.keys()
    assert states(domain)["a"] == "evicted"


async def test_unused_models_are_forgotten(start_domain: StartDomain, tmp_path: Path) -> None:
    domain = await start_domain(memory=ROOM_FOR_TWO, retention=RetentionPolicy(kept_models=2))
    await register(domain, tmp_path, *(f"m{index}" for index in range(8)))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while len(states(domain)) > 4:  # noqa: ASYNC110 - the loop of the service does it
            await asyncio.sleep(0.01)
    assert states(domain) == {"m4": "evicted", "m5": "evicted", "m6": "ready", "m7": "ready"}


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record_of(model_id: str, state: ModelState, age_days: float) -> ModelRecord:
    used = NOW - timedelta(days=age_days)
    return ModelRecord(model_id, "/c", "d", state, "", "A", "bfloat16", 1, 400, used, last_use_time=used)


@given(
    st.lists(st.tuples(st.sampled_from(ModelState), st.floats(0, 100)), max_size=30),
    st.integers(0, 10),
    st.floats(1, 50),
)
def test_retention_forgets_only_unused_and_keeps_the_newest(
    described: list[tuple[ModelState, float]], kept: int, days: float
) -> None:
    records = [record_of(f"m{index}", *each) for index, each in enumerate(described)]
    gone = set(models_to_forget(records, RetentionPolicy(kept, timedelta(days=days)), NOW))
    unused = [each for each in records if each.state in (ModelState.EVICTED, ModelState.FAILED)]
    assert gone <= {each.model_id for each in unused}
    left = [each for each in unused if each.model_id not in gone]
    assert len(left) <= kept
    assert all(NOW - each.last_used <= timedelta(days=days) for each in left)
    young_gone = [each for each in unused if each.model_id in gone and NOW - each.last_used <= timedelta(days=days)]
    assert not young_gone or len(left) == kept
    assert all(old.last_used <= young.last_used for old in young_gone for young in left)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 4010), ("bfloat16", 2010)])
def test_memory_is_counted_in_the_type_of_the_computation(dtype: str, expected: int) -> None:
    record = ModelRecord("m", "/c", "d", ModelState.READY, "", "A", dtype, 1, 2000, NOW, parameter_count=1000)
    assert memory_cost(record, overhead_bytes=10) == expected
