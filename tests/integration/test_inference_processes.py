"""What becomes of the inference host's processes: started twice, stopped, killed, orphaned."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.inference import model_calls, repository
from services.inference.client import InferenceClient
from services.inference.contract import CausalLMArguments
from services.inference.platform_checks import TritonUnavailableError, check_platform, gather_platform_facts
from services.inference.sampling import SamplingParameters
from services.inference.triton_server import TritonOptions
from services.runtime.errors import FleetError

pytestmark = pytest.mark.integration

Start = Callable[..., "subprocess.Popen[bytes]"]
TIMEOUT_SECONDS = 90.0


@pytest.fixture(autouse=True)
def _needs_triton() -> None:
    try:
        check_platform(gather_platform_facts())
    except TritonUnavailableError as error:
        pytest.skip(error.message)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an inference host with settings; what still runs at the end is killed with all it started."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(**settings: Any) -> "subprocess.Popen[bytes]":
        told = {"PORT": 0, "METRICS_PORT": 0, "STATE_DIR": tmp_path, "READY_FILE": tmp_path / "ready", **settings}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")}
        environment |= {f"EVALFLEET_{name}": str(value) for name, value in told.items()}
        with (tmp_path / f"out-{len(processes)}").open("wb") as out:
            command = [sys.executable, "-m", "services.inference"]
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        processes.append(process)
        return process

    yield run
    for process in processes:
        for pid in [*descendants(process.pid), process.pid]:
            kill(pid)
        process.wait(timeout=TIMEOUT_SECONDS)
    # What a killed Triton leaves is removed when it is next started with the same folder, which is not to be here.
    for segment in Path("/dev/shm").glob(f"{shared_memory_prefix(tmp_path)}*"):
        segment.unlink()


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    try:
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(each for child in children for each in descendants(child))]


def is_running(pid: int) -> bool:
    try:
        return re.search(r"^State:\s+[^ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except OSError:
        return False


def until(is_reached: Callable[[], bool], *, seconds: float = TIMEOUT_SECONDS) -> None:
    """Wait for something that only another process can bring about."""
    deadline = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def address(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    until(lambda: (folder / "ready").exists() or process.poll() is not None)
    assert process.poll() is None, "".join(file.read_text() for file in folder.glob("out-*"))
    return (folder / "ready").read_text().strip()


def with_tiny_model(checkpoint: Path) -> str:
    arguments = {"model": str(checkpoint)}
    return json.dumps([{"name": "tiny", "engine": "causal_lm", "arguments": arguments}])


async def generate(target: str, *, max_tokens: int = 8, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
    async with InferenceClient(target) as client:
        return await ask(client, max_tokens=max_tokens, timeout_seconds=timeout_seconds)


async def ask(client: InferenceClient, *, max_tokens: int = 8, timeout_seconds: float = 600) -> Any:
    sampling = SamplingParameters(max_tokens=max_tokens, ignore_eos=True, seed=1)
    return await client.generate("tiny", "The quick", sampling, timeout_seconds=timeout_seconds)


def test_a_stop_leaves_nothing_behind(start: Start, tmp_path: Path, tiny_checkpoint: Path) -> None:
    host = start(STARTUP_MODELS=with_tiny_model(tiny_checkpoint))
    target = address(tmp_path, host)
    assert asyncio.run(generate(target)).num_output_tokens == 8
    started = descendants(host.pid)
    assert len(started) >= 2
    segments = f"{shared_memory_prefix(tmp_path)}*"
    assert list(Path("/dev/shm").glob(segments))
    host.send_signal(signal.SIGTERM)
    assert host.wait(timeout=TIMEOUT_SECONDS) == 0
    assert not any(is_running(pid) for pid in started)
    assert not list(Path("/dev/shm").glob(segments))
    host_name, _, port = target.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host_name, int(port)))
    assert "Traceback" not in (tmp_path / "out-0").read_text()


def shared_memory_prefix(folder: Path) -> str:
    return TritonOptions("", 0, 0, folder, "", 1, 1, {}).shared_memory_prefix


def test_a_killed_host_takes_triton_and_its_stubs_along(start: Start, tmp_path: Path, tiny_checkpoint: Path) -> None:
    host = start(STARTUP_MODELS=with_tiny_model(tiny_checkpoint))
    address(tmp_path, host)
    started = descendants(host.pid)
    assert len(started) >= 2
    host.kill()
    until(lambda: not any(is_running(pid) for pid in started))


def test_a_host_ends_with_its_parent(start: Start, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as parent:
        host = start(PARENT_PID=parent.pid)
        address(tmp_path, host)
        started = descendants(host.pid)
        parent.kill()
        assert host.wait(timeout=TIMEOUT_SECONDS) == 0
    assert not any(is_running(pid) for pid in started)


def test_a_triton_that_dies_ends_its_host_with_a_reason(start: Start, tmp_path: Path) -> None:
    host = start()
    address(tmp_path, host)
    kill(descendants(host.pid)[0])
    assert host.wait(timeout=TIMEOUT_SECONDS) == 1
    output = (tmp_path / "out-0").read_text()
    assert "Triton ended by itself with code -9; its log is" in output
    assert "Traceback" not in output


def test_a_second_host_on_a_port_says_so(start: Start, tmp_path: Path) -> None:
    first = start()
    port = address(tmp_path, first).rpartition(":")[2]
    for kind in ("triton", "local"):
        second = start(PORT=port, INFERENCE=kind, READY_FILE=tmp_path / "ready-2", STATE_DIR=tmp_path / kind)
        assert second.wait(timeout=TIMEOUT_SECONDS) == 1
        output = sorted(tmp_path.glob("out-*"))[-1].read_text()
        assert f"cannot listen on 127.0.0.1:{port}" in output
        assert "Traceback" not in output
    assert first.poll() is None


@pytest.mark.parametrize("kind", ["triton", "local"])
def test_a_startup_model_that_cannot_be_loaded_is_named(start: Start, tmp_path: Path, kind: str) -> None:
    host = start(INFERENCE=kind, STARTUP_MODELS=with_tiny_model(tmp_path / "nothing-here"))
    assert host.wait(timeout=TIMEOUT_SECONDS) == 1
    output = (tmp_path / "out-0").read_text()
    assert "nothing-here" in output
    assert not (tmp_path / "ready").exists()


def test_a_stop_during_the_start_is_obeyed(start: Start, tmp_path: Path, tiny_checkpoint: Path) -> None:
    host = start(STARTUP_MODELS=with_tiny_model(tiny_checkpoint))
    until(lambda: bool(descendants(host.pid)))
    started = descendants(host.pid)
    host.send_signal(signal.SIGTERM)
    assert host.wait(timeout=TIMEOUT_SECONDS) == 0
    assert not any(is_running(pid) for pid in started)
    assert not (tmp_path / "ready").exists()


def test_requests_to_an_engine_that_dies_do_not_wait_for_their_deadline(
    start: Start, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start(STARTUP_MODELS=with_tiny_model(tiny_checkpoint))
    target = address(tmp_path, host)
    monkeypatch.setattr(model_calls, "ENGINE_WATCH_SECONDS", 0.5)
    triton, *_, stub = descendants(host.pid)
    assert triton != stub
    # Stopped rather than busy, so that the request is surely in flight when the process is killed.
    kill(stub, signal.SIGSTOP)

    async def ask_and_kill() -> list[str]:
        asked = asyncio.create_task(generate(target, timeout_seconds=600))
        monkeypatch.setattr(model_calls, "ENGINE_WATCH_SECONDS", 600)
        async with InferenceClient(target) as client:
            # Nobody asks in time on this connection; another of its calls is told of the death.
            unwatched = asyncio.create_task(ask(client))
            await asyncio.sleep(1)
            assert not asked.done()
            assert not unwatched.done()
            kill(stub)
            reasons = []
            for call in (asked, ask(client), unwatched):
                with pytest.raises(FleetError) as caught:
                    async with asyncio.timeout(TIMEOUT_SECONDS):
                        await call
                reasons.append(caught.value.reason)
            return reasons

    assert asyncio.run(ask_and_kill()) == ["ENGINE_CRASHED"] * 3


def test_an_unloaded_model_gives_its_process_back(start: Start, tmp_path: Path, tiny_checkpoint: Path) -> None:
    host = start()
    target = address(tmp_path, host)
    key = (tmp_path / "model-control.key").read_text()

    async def use_and_unload() -> None:
        async with InferenceClient(target, model_control_key=key) as client:
            entry = repository.causal_lm_entry(CausalLMArguments(model=str(tiny_checkpoint)))
            await client.load_model("tiny", entry, timeout_seconds=TIMEOUT_SECONDS)
            await asyncio.gather(*(generate(target, max_tokens=1 + n % 3) for n in range(60)))
            await client.unload_model("tiny", timeout_seconds=TIMEOUT_SECONDS)

    asyncio.run(use_and_unload())
    until(lambda: len(descendants(host.pid)) == 1)
