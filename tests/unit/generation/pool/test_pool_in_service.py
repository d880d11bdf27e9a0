"""The service over a pool: models outlive their servers, and places follow how many servers there are."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.generation.admission import Admission
from services.generation.backend import Deployment
from services.generation.checkpoints import ContentDigests
from services.generation.errors import CheckpointError
from services.generation.own_tritons import open_tritons
from services.generation.pool.metrics import PoolMetrics
from services.generation.pool.plan import ContentCheck
from services.generation.pool.triton_pool import TritonPool
from services.generation.registration import Registration
from services.generation.requests import GenerationRequest
from services.generation.settings import GenerationSettings
from services.generation.wiring import wire_backend
from tests.fakes.generation_domain import StartDomain
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint
from tests.fakes.triton_pool import Servers, running_pool
from tests.patience import until


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with running_pool("a", "b") as servers:
        yield servers


@pytest.fixture
def backend(servers: Servers) -> TritonPool:
    """What ``start_domain`` builds on."""
    return servers.pool


async def test_a_model_survives_the_loss_of_a_server_untouched_and_of_all_by_being_loaded_again(
    start_domain: StartDomain, checkpoint: Path, servers: Servers
) -> None:
    domain = await start_domain()
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    await servers.have(record.deployment.name, "a", "b")
    before = await domain.generator.generate(GenerationRequest("m", "p"))
    servers["a"].kill()
    assert await domain.generator.generate(GenerationRequest("m", "p")) == before
    servers["b"].kill()
    asking = asyncio.create_task(domain.generator.generate(GenerationRequest("m", "p")))
    await until(lambda: servers.pool.ready_count == 0)
    servers["a"].is_up = servers["b"].is_up = True
    assert await asking == before
    await servers.have(record.deployment.name, "a", "b")


async def test_after_a_restart_of_the_service_a_new_server_gets_its_models(
    start_domain: StartDomain, checkpoint: Path, servers: Servers
) -> None:
    domain = await start_domain()
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    await servers.have(record.deployment.name, "a", "b")
    servers.pool._plan.wanted.clear()  # as in a new process, which knows what the registry knows
    await start_domain()
    await servers.ready("a", "b", "c")
    await servers.have(record.deployment.name, "c")


async def test_a_deleted_model_leaves_all_servers(
    start_domain: StartDomain, checkpoint: Path, servers: Servers
) -> None:
    domain = await start_domain()
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    await servers.have(record.deployment.name, "a", "b")
    await domain.lifecycle.delete("m")
    assert (servers["a"].loaded, servers["b"].loaded) == ({}, {})


async def test_places_follow_whoever_counts_the_servers(tmp_path: Path) -> None:
    told: list[Callable[[int], None]] = []
    settings = GenerationSettings(state_dir=tmp_path, cache_url="off")
    async with wire_backend(settings, CollectorRegistry(), FakeInferenceBackend(), told.append):
        [resize] = told
        assert isinstance(getattr(resize, "__self__", None), Admission)


async def test_further_servers_are_read_only_what_was_registered(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    digests = ContentDigests()
    content = await digests.digest(folder, "float32")
    deployment = Deployment("m", str(folder), "float32", digest=content.digest, fingerprint=content.fingerprint)
    check = ContentCheck(digests)
    await check(deployment)
    weights = folder / "model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held)  # looks as if it was written again, and is the same
    await check(deployment)
    weights.write_bytes(held + b" ")
    with pytest.raises(CheckpointError) as caught:
        await check(deployment)
    assert caught.value.reason == "CHECKPOINT_CHANGED"


async def test_the_metrics_say_how_many_there_are(servers: Servers) -> None:
    registry = CollectorRegistry()
    registry.register(PoolMetrics(servers.pool))
    servers["b"].is_up = False
    await until(lambda: registry.get_sample_value("evalfleet_generation_tritons", {"state": "away"}) == 1)
    assert registry.get_sample_value("evalfleet_generation_tritons", {"state": "ready"}) == 1
    assert registry.get_sample_value("evalfleet_generation_moved_requests_total") == 0


@pytest.mark.parametrize(("target", "is_pool"), [("127.0.0.1:{}", False), ("127.0.0.1:{0},localhost:{0}", True)])
async def test_one_address_is_asked_without_a_pool(target: str, is_pool: bool) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        registry, told = CollectorRegistry(), list[int]()
        async with open_tritons(GenerationSettings(triton_target=target.format(port)), registry) as tritons:
            tritons.count(told.append)
            assert isinstance(tritons.backend, TritonPool) == is_pool
            assert not await tritons.backend.is_ready()
            assert told == ([0] if is_pool else [1])
            assert registry.get_sample_value("evalfleet_generation_tritons", {"state": "ready"}) == 0
            if not is_pool:
                assert registry.get_sample_value("evalfleet_generation_tritons", {"state": "away"}) == 1
    finally:
        await server.stop(None)
