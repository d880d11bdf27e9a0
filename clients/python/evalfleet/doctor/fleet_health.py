"""A running fleet: whether each service answers, is ready, and is of this version."""

from __future__ import annotations  # grpc's callables are generic in its type stubs alone

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import grpc

from evalfleet.channels import open_channel
from evalfleet.connections import VERSION_KEY
from evalfleet.doctor.findings import Finding, FindingState
from evalfleet.endpoints import SERVICES, find_endpoints
from evalfleet.errors import EndpointError, from_rpc_error

_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """What a service says of itself; ``problem`` is empty where it is ready, ``version`` where it does not tell."""

    version: str
    problem: str


def check_health(service: str, target: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> ServiceHealth:
    """Ask a service by grpc.health.v1 whether it is ready; what is wrong is told and not raised."""
    with open_channel(target) as channel:
        # An empty request is about the server as a whole, and its answer one enumeration: no stubs are needed.
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_HEALTH_METHOD)
        try:
            answer, call = check.with_call(b"", timeout=timeout_seconds)
        except grpc.RpcError as error:
            return ServiceHealth("", from_rpc_error(error, service=service, target=target).explanation())
        trailers = dict(call.trailing_metadata() or ())
    told = trailers.get(VERSION_KEY, "")
    is_ready = answer == _SERVING
    return ServiceHealth(told if isinstance(told, str) else told.decode(), "" if is_ready else "it is not ready")


def fleet_findings(targets: Mapping[str, str], state_dir: Path) -> Iterator[Finding]:
    """Yield what each service of the fleet says that commands would talk to; one line where there is none.

    Args:
        targets: addresses given on the command line, by service.
        state_dir: state folder of a fleet on this machine.
    """
    remedy = f"evalfleet --state-dir {state_dir} up" if state_dir != Path.home() / ".evalfleet" else "evalfleet up"
    try:
        endpoints = find_endpoints(targets, state_dir=state_dir)
    except EndpointError as error:
        yield Finding("fleet", "fleet", FindingState.MISSING, error.explanation(), remedy)
        return
    if not endpoints.targets:
        yield Finding("fleet", "fleet", FindingState.WARN, f"none is running here: {endpoints.missing}", remedy)
        return
    with ThreadPoolExecutor(max_workers=len(SERVICES)) as threads:
        known = {each: endpoints.targets[each] for each in SERVICES if each in endpoints.targets}
        found = dict(zip(known, threads.map(check_health, known, known.values()), strict=True))
    for service in SERVICES:
        if service in found:
            yield _told(service, known[service], found[service], state_dir / "logs" / f"{service}.log")
        else:
            told = f"nobody says where it is ({endpoints.missing})"
            yield Finding("fleet", service, FindingState.WARN, told, remedy)


def _told(service: str, target: str, health: ServiceHealth, log: Path) -> Finding:
    # Whoever has a fleet relies on it: a service of it that is away is missed.
    if health.problem:
        remedy = f"tail {log}" if log.is_file() else ""
        return Finding("fleet", service, FindingState.MISSING, f"{target}: {health.problem}", remedy, is_needed=True)
    told = f"{target}: ready, version {health.version or 'unknown'}"
    ours = library_version()
    if health.version and health.version != ours:
        remedy = f"pip install 'evalfleet=={health.version}'"
        return Finding("fleet", service, FindingState.WARN, f"{told}; this library is {ours}", remedy)
    return Finding("fleet", service, FindingState.OK, told, is_needed=True)


def library_version() -> str:
    """Return the version of this library; ``unknown`` where it is not installed."""
    try:
        return version("evalfleet")
    except PackageNotFoundError:
        return "unknown"
