"""Which processes make up a fleet, and what each is told."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.standalone.options import HOST, FleetOptions
from services.standalone.ports import PortBlock

SERVICES = ("evaluation", "generation", "safety", "scoring", "aggregation")
INFERENCE = "inference"
STOP_ORDER = (("evaluation",), ("scoring",), ("generation", "safety", "aggregation"), (INFERENCE,))
"""Callers stop before those whom they call, so that a drain finds everything that it needs."""

_PATHS = {
    "EVALFLEET_CALLER_BUDGETS": ("evaluation",),
    "EVALFLEET_ENCODER_PATH": ("safety", "scoring"),
    "EVALFLEET_GUARD_CHECKPOINT": ("safety",),
    "EVALFLEET_GUARD_FILE": ("safety",),
    "EVALFLEET_GUARDS_FILE": ("safety",),
    "EVALFLEET_POLICY_DIRS": ("safety",),
    "EVALFLEET_RUBRIC_DIRS": ("scoring",),
    "EVALFLEET_SIMILARITY_ENCODER_PATH": ("scoring",),
}
"""Whose setting each is; the others would wonder about it."""
_DATABASES = {"EVALFLEET_RUNS_URL": "evaluation", "EVALFLEET_LEDGER_URL": "aggregation"}
"""The same; one may hold a password, too."""
_ELSEWHERE = tuple(
    f"EVALFLEET_{each}"
    for each in ("TLS_", "PUBLIC_", "HEALTH_", "OIDC_", "CALLER_KEYS", "CALLER_QUOTAS", "ALLOW_INSECURE")
)
"""Beginnings of settings by which services trust callers, and clients a fleet elsewhere: this one has loopback."""
_SERVICE_DRAIN_SECONDS = 10
# Safety is healthy once its guard is loaded, and that waits for the inference server.
_START_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One process of the fleet.

    Attributes:
        name: ``evaluation``, …, or ``inference``.
        command: its argument vector.
        environment: its whole environment.
        folder: its working folder, where it keeps its files.
        target: ``host:port`` of its gRPC service.
        metrics_target: ``host:port`` of its metrics.
        log_path: receives its standard output and error.
        ready_file: it writes its address there when it serves.
        start_timeout_seconds: longest time until it is healthy.
        stop_timeout_seconds: longest time from SIGTERM to its end; then it is killed.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    target: str
    metrics_target: str
    log_path: Path
    ready_file: Path
    start_timeout_seconds: float
    stop_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The processes of a fleet and its state folder."""

    state_dir: Path
    inference: str
    parts: tuple[PartPlan, ...]

    def part(self, name: str) -> PartPlan:
        """Return the process called ``name``."""
        return next(each for each in self.parts if each.name == name)


def plan_fleet(
    options: FleetOptions,
    ports: PortBlock,
    *,
    environ: Mapping[str, str] | None = None,
    supervisor_pid: int | None = None,
) -> FleetPlan:
    """Lay out the processes.

    Args:
        options: what the fleet was told.
        ports: where it listens.
        environ: what its processes inherit; default: this process's environment.
        supervisor_pid: the process at whose end all of them end; default: this one.
    """
    inherited = dict(os.environ if environ is None else environ)
    inherited = {name: told for name, told in inherited.items() if not name.startswith(_ELSEWHERE)}
    # The services work in folders of their own; people mean the one that they are in.
    paths = {name: _absolute(name, told) for name in _PATHS if (told := inherited.pop(name, ""))}
    databases = {name: told for name in _DATABASES if (told := inherited.pop(name, ""))}
    for name in ("EVALFLEET_AUDIT_FILE", "EVALFLEET_TRACE_FILE"):
        if told := inherited.get(name, ""):
            inherited[name] = _absolute(name, told)
    inherited["EVALFLEET_PARENT_PID"] = str(supervisor_pid or os.getpid())
    inherited.setdefault("EVALFLEET_DRAIN_GRACE_SECONDS", str(_SERVICE_DRAIN_SECONDS))
    parts = tuple(
        _part(
            name,
            options,
            ports,
            {
                **inherited,
                **{each: told for each, told in paths.items() if name in _PATHS[each]},
                **{each: told for each, told in databases.items() if _DATABASES[each] == name},
                **_told(name, options, ports),
            },
        )
        for name in (INFERENCE, *SERVICES)
    )
    return FleetPlan(state_dir=options.state_dir, inference=options.inference, parts=parts)


def key_file(options: FleetOptions) -> Path:
    """Return where the key lies that allows models to be loaded into the inference server."""
    return options.state_dir / INFERENCE / "model-control.key"


def _part(name: str, options: FleetOptions, ports: PortBlock, environment: Mapping[str, str]) -> PartPlan:
    folder = options.state_dir / name
    ready_file = folder / "ready"
    is_inference = name == INFERENCE
    return PartPlan(
        name=name,
        command=(sys.executable, "-m", f"services.{name}"),
        environment={
            **environment,
            "EVALFLEET_HOST": HOST,
            "EVALFLEET_PORT": str(ports.grpc(name)),
            "EVALFLEET_METRICS_PORT": str(ports.metrics(name)),
            "EVALFLEET_STATE_DIR": str(folder),
            "EVALFLEET_READY_FILE": str(ready_file),
        },
        folder=folder,
        target=f"{HOST}:{ports.grpc(name)}",
        metrics_target=f"{HOST}:{ports.metrics(name)}",
        log_path=options.state_dir / "logs" / f"{name}.log",
        ready_file=ready_file,
        start_timeout_seconds=_START_SECONDS,
        stop_timeout_seconds=20.0 if is_inference else _SERVICE_DRAIN_SECONDS + 5.0,
    )


def _told(name: str, options: FleetOptions, ports: PortBlock) -> dict[str, str]:
    """Return the settings that one process needs beyond those that all have."""
    triton = {
        "EVALFLEET_TRITON_TARGET": f"{HOST}:{ports.grpc(INFERENCE)}",
        "EVALFLEET_TRITON_KEY_FILE": str(key_file(options)),
    }
    match name:
        case "inference":
            return {**triton, "EVALFLEET_INFERENCE": options.inference}
        case "generation":
            return {**triton, "EVALFLEET_CHECKPOINT_ROOTS": _joined(options.checkpoint_roots)}
        case "safety":
            return triton
        case "scoring":
            return {**triton, "EVALFLEET_GENERATION_TARGET": f"{HOST}:{ports.grpc('generation')}"}
        case "evaluation":
            targets = {
                f"EVALFLEET_{each.upper()}_TARGET": f"{HOST}:{ports.grpc(each)}" for each in SERVICES if each != name
            }
            return {
                **targets,
                "EVALFLEET_DATA_DIR": _joined(options.data_dirs),
                "EVALFLEET_SUITE_DIRS": _joined(options.suite_dirs),
            }
        case _:
            return {}


def _absolute(variable: str, told: str) -> str:
    """Return a path as seen from any folder; the variables of several, ``…_DIRS``, separate them by colons."""
    paths = told.split(":") if variable.endswith("_DIRS") else [told]
    return ":".join(str(Path(each).absolute()) for each in paths if each)


def _joined(folders: tuple[Path, ...]) -> str:
    return os.pathsep.join(str(each) for each in folders)
