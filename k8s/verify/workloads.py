"""Which of our programs a container runs, and what its settings are there."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

from evalfleet import client_settings, security
from evalfleet.endpoints import SERVICES, target_variable
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from services.aggregation.settings import AggregationSettings
from services.code_runner.settings import CodeRunnerSettings
from services.dashboard.settings import DashboardSettings
from services.evaluation.settings import EvaluationSettings
from services.generation.settings import GenerationSettings
from services.inference.settings import InferenceSettings
from services.runtime.settings import ServiceSettings
from services.safety.settings import SafetySettings
from services.scoring.settings import ScoringSettings

CLIENT_VARIABLES: Final = frozenset(
    {
        *(target_variable(each) for each in SERVICES),
        client_settings.CALLER_VARIABLE,
        security.CA_VARIABLE,
        security.CERTIFICATE_VARIABLE,
        security.KEY_VARIABLE,
        security.TOKEN_VARIABLE,
        security.TOKEN_FILE_VARIABLE,
    }
)
"""What the Python client, and with it the dashboard and the command line, reads."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A program of ours.

    Attributes:
        module: ``services.safety``, or ``evalfleet`` for the command line.
        settings_class: what it reads from the environment; ``None``: a client's variables alone.
        is_client: whether it reads a client's variables.
    """

    module: str
    settings_class: type[BaseSettings] | None
    is_client: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its settings."""
        return () if self.settings_class is None else tuple(self.settings_class.model_fields)

    def is_run_by(self, container: Mapping[str, Any]) -> bool:
        """Whether a container runs the program itself, not a job of it (``MODULE.migrate``)."""
        return program_of(container) == self.module

    @property
    def variables(self) -> frozenset[str]:
        """The names of the environment variables that it reads."""
        prefix = "" if self.settings_class is None else self.settings_class.model_config["env_prefix"]
        own = frozenset(f"{prefix}{field}".upper() for field in self.fields)
        return own | CLIENT_VARIABLES if self.is_client else own


_WORKLOADS: Final = (
    Workload("services.aggregation", AggregationSettings),
    Workload("services.code_runner", CodeRunnerSettings),
    Workload("services.dashboard", DashboardSettings, is_client=True),
    Workload("services.evaluation", EvaluationSettings),
    Workload("services.generation", GenerationSettings),
    Workload("services.inference", InferenceSettings),
    Workload("services.safety", SafetySettings),
    Workload("services.scoring", ScoringSettings),
    Workload("evalfleet", None, is_client=True),
)


def workload_of(container: Mapping[str, Any]) -> Workload | None:
    """Return which program a container runs: ``python -m MODULE`` or ``evalfleet``; ``None`` for a stranger's."""
    told = program_of(container)
    return next((each for each in _WORKLOADS if f"{told}.".startswith(f"{each.module}.")), None)


def is_there(container: Mapping[str, Any]) -> bool:
    """Whether the module that a container runs exists."""
    return find_spec(program_of(container)) is not None


def program_of(container: Mapping[str, Any]) -> str:
    """Return the module behind ``-m``, or the command's name; empty: whatever its image runs."""
    words: Sequence[str] = [*container.get("command", ()), *container.get("args", ())]
    return words[words.index("-m") + 1] if "-m" in words[:-1] else words[0] if words else ""


def told_values(container: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables whose values stand in the manifest, not in a Secret or ConfigMap."""
    return {each["name"]: str(each["value"]) for each in container.get("env", ()) if "value" in each}


def settings_of(container: Mapping[str, Any]) -> BaseSettings | None:
    """Return a container's settings; ``None`` if it runs no service of ours.

    Raises:
        ValidationError: the service would refuse a value.
    """
    workload = workload_of(container)
    if workload is None or workload.settings_class is None:
        return None
    return _read_settings(workload.settings_class, frozenset(told_values(container).items()))


def service_settings(container: Mapping[str, Any]) -> ServiceSettings | None:
    """Return the settings of a gRPC service of ours, Triton's too; ``None`` for jobs, strangers and refused values."""
    try:
        settings = settings_of(container)
    except ValidationError:
        return None
    workload = workload_of(container)
    is_run = workload is not None and workload.is_run_by(container)
    return settings if is_run and isinstance(settings, ServiceSettings) else None


@cache
def _read_settings(settings_class: type[BaseSettings], told: frozenset[tuple[str, str]]) -> BaseSettings:
    with _environment(dict(told)):
        return settings_class()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Give settings these variables to read, and no others."""
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
