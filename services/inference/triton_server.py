"""Starts, watches and stops the real tritonserver as a process group of its own."""

import asyncio
import ctypes
import hashlib
import os
import shutil
import signal
import socket
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import services
from services.inference import contract
from services.inference.client import InferenceClient
from services.inference.contract import ModelEntry
from services.inference.orphans import end_orphans
from services.inference.platform_checks import TritonFiles
from services.inference.repository import write_repository
from services.inference.settings import patient_threads
from services.runtime.errors import StartupError

_PR_SET_PDEATHSIG: Final = 1
_READY_POLL_SECONDS: Final = 0.1
KILL_MARGIN_SECONDS: Final = 3.0
"""How much longer than its exit timeout Triton may take to end before it is killed."""
_GROUP_END_SECONDS: Final = 5.0
_TAIL_BYTES: Final = 16 * 1024
# What a caller could use to run code in the server or to read its memory asks for the key.
_RESTRICTED_PROTOCOLS: Final = "model-repository,shared-memory,trace,logging"


class TritonStartError(StartupError):
    """Triton did not become ready; the message ends with the last lines of its log."""

    default_reason = "TRITON_START_FAILED"


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """How to run Triton.

    Attributes:
        host: address to listen on; keep it loopback.
        port: gRPC port.
        metrics_port: port of Prometheus metrics; 0 turns them off.
        work_dir: folder for its log, backend and model repository.
        model_control_key: secret that load, unload and list need. It stands in Triton's command line, which other
            users of the machine can read unless /proc hides it.
        exit_timeout_seconds: how long a stop waits for requests in flight.
        torch_threads: CPU threads of each model's engine.
        startup_models: entries by name, loaded before it is ready.
    """

    host: str
    port: int
    metrics_port: int
    work_dir: Path
    model_control_key: str
    exit_timeout_seconds: int
    torch_threads: int
    startup_models: Mapping[str, ModelEntry]

    @property
    def log_path(self) -> Path:
        """Triton's own log."""
        return self.work_dir / "triton.log"

    @property
    def backends_dir(self) -> Path:
        """Where Triton finds its backend, and with it the program of its model processes."""
        return self.work_dir / "backends"

    @property
    def shared_memory_prefix(self) -> str:
        """Beginning of the names of its shared-memory segments; the same after a restart."""
        return f"evalfleet-{hashlib.sha256(str(self.work_dir.resolve()).encode()).hexdigest()[:12]}-"


class TritonServer:
    """A running tritonserver.

    Args:
        options: how it was started.
        process: it.
    """

    def __init__(self, options: TritonOptions, process: asyncio.subprocess.Process) -> None:
        self._options = options
        self._process = process

    @classmethod
    async def start(cls, files: TritonFiles, options: TritonOptions) -> "TritonServer":
        """Start the process; it is not ready yet.

        Raises:
            StartupError: a port is taken.
        """
        for port in filter(None, (options.port, options.metrics_port)):
            _check_port(options.host, port)
        await asyncio.to_thread(end_orphans, options.backends_dir)
        _remove_shared_memory(options.shared_memory_prefix)
        await asyncio.to_thread(_prepare_folders, files, options)
        with options.log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *_command(files, options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(files, options),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        return cls(options, process)

    @property
    def pid(self) -> int:
        """Process id of tritonserver, and id of the group that its stubs belong to."""
        return self._process.pid

    async def wait_until_ready(self, timeout_seconds: float) -> None:
        """Return when Triton takes requests and all startup models are loaded.

        Raises:
            TritonStartError: it ended or took too long.
        """
        ended = asyncio.ensure_future(self._process.wait())
        ready = asyncio.ensure_future(self._poll_ready())
        try:
            await asyncio.wait((ended, ready), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (ended, ready):
                each.cancel()
        if ready.done() and not ready.cancelled():
            return
        problem = (
            f"ended with code {self._process.returncode}"
            if self._process.returncode is not None
            else f"was not ready after {timeout_seconds:g} s"
        )
        tail = log_tail(self._options.log_path)
        raise TritonStartError(f"Triton {problem}; the end of {self._options.log_path}:\n{tail}")

    async def wait_until_exit(self) -> int:
        """Return Triton's exit code when it ends."""
        return await self._process.wait()

    async def stop(self) -> None:
        """End Triton and everything that it started: SIGTERM, and SIGKILL for what is left."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.exit_timeout_seconds + KILL_MARGIN_SECONDS):
                    await self._process.wait()
        await _end_group(self.pid)
        await self._process.wait()
        _remove_shared_memory(self._options.shared_memory_prefix)

    async def _poll_ready(self) -> None:
        async with InferenceClient(f"{self._options.host}:{self._options.port}") as client:
            while True:
                if await client.is_ready(timeout_seconds=1.0):
                    return
                await asyncio.sleep(_READY_POLL_SECONDS)


def log_tail(path: Path, *, lines: int = 20) -> str:
    """Return the last lines of a log, empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartupError(
                f"Triton cannot listen on {host}:{port} ({error.strerror}): another fleet may be running; stop it or "
                "choose another port",
                reason="PORT_IN_USE",
                metadata={"host": host, "port": str(port)},
            ) from error


def _prepare_folders(files: TritonFiles, options: TritonOptions) -> None:
    """Lay out what Triton reads: its backend with the stub of this Python, and the models loaded at start."""
    shutil.rmtree(options.backends_dir, ignore_errors=True)
    backend = options.backends_dir / "python"
    shutil.copytree(files.backend, backend, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(files.stub, backend / files.stub.name)
    write_repository(options.work_dir / "repository", options.startup_models)


def _command(files: TritonFiles, options: TritonOptions) -> list[str]:
    key = f"{contract.MODEL_CONTROL_PROTOCOL}={options.model_control_key}"
    command = [
        str(files.binary),
        f"--model-repository={options.work_dir / 'repository'}",
        f"--backend-directory={options.backends_dir}",
        f"--backend-config=python,shm-region-prefix-name={options.shared_memory_prefix}",
        "--model-control-mode=explicit",
        # By default the whole server counts as not ready while any one model is being loaded.
        "--strict-readiness=false",
        "--disable-auto-complete-config",
        f"--grpc-restricted-protocol={_RESTRICTED_PROTOCOLS}:{key}",
        "--allow-http=false",
        "--allow-grpc=true",
        f"--grpc-address={options.host}",
        f"--grpc-port={options.port}",
        f"--exit-timeout-secs={options.exit_timeout_seconds}",
    ]
    if options.metrics_port:
        command += [f"--metrics-address={options.host}", f"--metrics-port={options.metrics_port}"]
    else:
        command.append("--allow-metrics=false")
    return command + [f"--load-model={name}" for name in options.startup_models]


def _environment(files: TritonFiles, options: TritonOptions) -> dict[str, str]:
    # The Python inside a stub looks for `python3` on PATH to find its environment (pyvenv.cfg, and with it
    # site-packages and .pth files), whoever started us; the stubs tried here did not heed PYTHONPATH.
    interpreter_folder = str(Path(sys.executable).parent)
    project = Path(services.__file__).resolve().parents[1]
    packages = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(project)))
    threads = str(options.torch_threads)
    libraries = {"LD_LIBRARY_PATH": os.pathsep.join(map(str, files.libraries))} if files.libraries else {}
    return {
        **os.environ,
        **libraries,
        "PATH": os.pathsep.join((interpreter_folder, os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": os.pathsep.join(packages),
        "EVALFLEET_TORCH_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        **patient_threads(os.environ),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the launcher dies, even by SIGKILL; the stubs follow by themselves."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _end_group(group: int) -> None:
    """Kill every process of a group and wait until they are gone."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_GROUP_END_SECONDS):
            while True:
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    return
                await asyncio.sleep(_READY_POLL_SECONDS)


def _remove_shared_memory(prefix: str) -> None:
    """Remove segments that a killed Triton left behind."""
    for segment in Path("/dev/shm").glob(f"{prefix}*"):
        segment.unlink(missing_ok=True)
