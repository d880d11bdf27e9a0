"""The parts of one generation service over a fake inference server."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.generation.generator import Generator
from services.generation.lifecycle import ModelLifecycle
from services.generation.registration import ModelRegistrar
from services.generation.registry import ModelRegistry
from tests.fakes.inference_backend import FakeInferenceBackend


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
