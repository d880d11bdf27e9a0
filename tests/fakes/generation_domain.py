"""The parts of one generation service over a fake inference server."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.generation.generator import Generator
from services.generation.lifecycle import ModelLifecycle
from services.generation.models import ModelRecord
from services.generation.registration import ModelRegistrar, Registration
from services.generation.registry import ModelRegistry
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import DeadlineExceededError
from tests.fakes.inference_backend import FakeInferenceBackend
from tests.patience import GROWING_SECONDS


@dataclass
class Domain:
    """The parts of one generation service."""

    backend: FakeInferenceBackend
    registry: ModelRegistry
    lifecycle: ModelLifecycle
    registrar: ModelRegistrar
    generator: Generator
    root: Path
    metrics: CollectorRegistry


StartDomain = Callable[..., Awaitable[Domain]]


async def register_in_a_hurry(domain: Domain, registration: Registration) -> ModelRecord:
    """Register a model whose load does not end, with as much time as this machine needs to read its files."""
    for seconds in GROWING_SECONDS:
        with bind_deadline(seconds), suppress(DeadlineExceededError):
            return await domain.registrar.create(registration)
    raise AssertionError("a checkpoint of a few bytes could not be hashed in time")
