"""The generation domain over a fake inference server, with pauses too short to notice."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.generation.admission import Admission, AdmissionLimits
from services.generation.checkpoints import ContentDigests
from services.generation.generator import Generator
from services.generation.lifecycle import LifecycleLimits, ModelLifecycle
from services.generation.load_records import LoadRecords
from services.generation.loading import CheckpointLoader, LoadingLimits
from services.generation.registration import ModelRegistrar, RegistrationRules
from services.generation.registry import ModelRegistry
from tests.fakes.generation_domain import Domain, StartDomain
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint


@pytest.fixture
def backend() -> FakeInferenceBackend:
    return FakeInferenceBackend()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoints" / "step-1")


@pytest.fixture
async def start_domain(tmp_path: Path, backend: FakeInferenceBackend) -> AsyncIterator[StartDomain]:
    """Start a service on the test's state folder; a second start stops the first, as a restart does."""
    root = tmp_path / "checkpoints"
    running = AsyncExitStack()

    async def start(
        *,
        reconcile: bool = True,
        total: int = 8,
        per_call: int = 4,
        ready_wait_seconds: float = 90.0,
        records: LoadRecords | None = None,
        **more: Any,
    ) -> Domain:
        """Start it; ``more`` are further LifecycleLimits."""
        nonlocal running
        await running.aclose()
        running = AsyncExitStack()
        registry = ModelRegistry(tmp_path / "state")
        running.callback(registry.close)
        digests = ContentDigests()
        loader = CheckpointLoader(backend, digests, [root], LoadingLimits())
        limits = LifecycleLimits(ready_wait_seconds=ready_wait_seconds, reconcile_interval_seconds=0.01, **more)
        lifecycle = ModelLifecycle(registry, backend, loader, limits, records)
        if reconcile:
            await lifecycle.start()
        running.push_async_callback(lifecycle.close)
        registrar = ModelRegistrar(registry, lifecycle, digests, RegistrationRules([root]))
        metrics = CollectorRegistry()
        admission = Admission(AdmissionLimits(running=total, running_per_call=per_call), metrics)
        generator = Generator(lifecycle, backend, admission, request_timeout_seconds=60.0)
        return Domain(backend, registry, lifecycle, registrar, generator, root, metrics)

    yield start
    await running.aclose()


@pytest.fixture
async def domain(start_domain: StartDomain) -> Domain:
    return await start_domain()
