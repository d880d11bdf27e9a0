import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.inference.launcher import _triton_options, startup_entries
from services.inference.platform_checks import TritonFiles
from services.inference.settings import InferenceSettings, StartupModel, available_cores, patient_threads
from services.inference.triton_server import TritonOptions, TritonServer, _command, _environment, log_tail
from services.runtime.errors import FleetError, StartupError
from tests.patience import LONGEST_WAIT_SECONDS, until


def options(folder: Path, **changes: Any) -> TritonOptions:
    told = {
        "host": "127.0.0.1", "port": 1, "metrics_port": 2, "work_dir": folder, "model_control_key": "secret",
        "exit_timeout_seconds": 5, "torch_threads": 3, "startup_models": {}, **changes,
    }  # fmt: skip
    return TritonOptions(**told)


FILES = TritonFiles(Path("/t/bin/tritonserver"), Path("/t/backend"), Path("/t/stub"), (Path("/l1"), Path("/l2")))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = {"name": "guard", "engine": "sequence_classifier", "arguments": {"model": "/m"}}
    monkeypatch.setenv("EVALFLEET_STARTUP_MODELS", json.dumps([model]))
    monkeypatch.setenv("EVALFLEET_INFERENCE", "local")
    monkeypatch.setenv("EVALFLEET_STATE_DIR", str(tmp_path))
    settings = InferenceSettings()
    assert settings.startup_models == (StartupModel(**model),)
    assert (settings.inference, settings.key_file) == ("local", tmp_path / "model-control.key")
    assert settings.engine_threads == available_cores()


def test_startup_models_are_checked() -> None:
    good = StartupModel(name="m", engine="causal_lm", arguments={"model": "/c", "max_num_seqs": 4})
    assert json.loads(startup_entries((good,))["m"].files["1/model.json"])["max_num_seqs"] == 4
    bad = [
        (good.model_copy(update={"name": "../m"}), "must start with"),
        (good.model_copy(update={"arguments": {"model": "/c", "max_num_seq": 4}}), "did you mean 'max_num_seqs'"),
        (good.model_copy(update={"arguments": {}}), "names no checkpoint"),
        (StartupModel(name="g", engine="sequence_classifier", arguments={"model": "/none"}), "no checkpoint folder"),
    ]
    for model, says in bad:
        with pytest.raises(FleetError, match=says):
            startup_entries((model,))


def test_triton_listens_where_told_and_guards_what_is_dangerous(tmp_path: Path) -> None:
    command = _command(FILES, options(tmp_path, host="127.0.0.2", port=7, startup_models={"a": None, "b": None}))
    assert "--grpc-address=127.0.0.2" in command
    assert "--grpc-port=7" in command
    assert "--allow-http=false" in command
    assert "--model-control-mode=explicit" in command
    assert command[-2:] == ["--load-model=a", "--load-model=b"]
    (restricted,) = [each for each in command if each.startswith("--grpc-restricted-protocol=")]
    assert restricted.endswith(":evalfleet-model-control=secret")
    assert {"model-repository", "shared-memory", "trace", "logging"} <= set(
        restricted.partition("=")[2].partition(":")[0].split(",")
    )
    assert "--metrics-port=2" in command
    assert "--allow-metrics=false" in _command(FILES, options(tmp_path, metrics_port=0))


def test_plaintext_beyond_loopback_must_be_meant(tmp_path: Path) -> None:
    settings = InferenceSettings(host="0.0.0.0", port=1, state_dir=tmp_path)
    with pytest.raises(StartupError, match="EVALFLEET_ALLOW_INSECURE") as caught:
        _triton_options(settings)
    assert caught.value.reason == "INSECURE_PORT"
    assert _triton_options(settings.model_copy(update={"allow_insecure": True})).host == "0.0.0.0"


def test_the_stub_finds_the_libraries_and_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = _environment(FILES, options(tmp_path))
    assert environment.items() >= patient_threads(os.environ).items()
    assert environment["LD_LIBRARY_PATH"] == "/l1:/l2"
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/the/image")
    assert _environment(replace(FILES, libraries=()), options(tmp_path))["LD_LIBRARY_PATH"] == "/of/the/image"
    project = Path(__file__).resolve().parents[3]
    assert str(project) in environment["PYTHONPATH"].split(os.pathsep)
    assert environment["EVALFLEET_TORCH_THREADS"] == environment["OMP_NUM_THREADS"] == "3"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_waiting_threads_give_up_their_core_unless_the_operator_says_otherwise() -> None:
    assert patient_threads({}) == {"GOMP_SPINCOUNT": "1000"}
    assert patient_threads({"GOMP_SPINCOUNT": "7"}) == {"GOMP_SPINCOUNT": "7"}
    assert patient_threads({"OMP_WAIT_POLICY": "ACTIVE"}) == {}


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for change in ({"port": port}, {"port": 0, "metrics_port": port}):
            with pytest.raises(StartupError, match=f"127.0.0.1:{port}") as caught:
                await TritonServer.start(FILES, options(tmp_path / "state", **change))
            assert caught.value.reason == "PORT_IN_USE"


async def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\necho cannot load the library >&2\nexit 3\n")
    binary.chmod(0o755)
    backend = tmp_path / "backend"
    backend.mkdir()
    stub = tmp_path / "stub"
    stub.touch()
    files = TritonFiles(binary, backend, stub, ())
    server = await TritonServer.start(files, options(tmp_path / "state", port=0, metrics_port=0))
    with pytest.raises(StartupError) as caught:
        await server.wait_until_ready(timeout_seconds=LONGEST_WAIT_SECONDS)
    assert "ended with code 3" in caught.value.message
    assert "cannot load the library" in caught.value.message
    await server.stop()


async def test_a_server_that_never_gets_ready_is_given_up_and_killed(tmp_path: Path) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\ntrap '' TERM\necho loading forever\nsleep 600 & wait\nsleep 600\n")
    binary.chmod(0o755)
    (tmp_path / "backend").mkdir()
    (tmp_path / "stub").touch()
    files = TritonFiles(binary, tmp_path / "backend", tmp_path / "stub", ())
    told = options(tmp_path / "state", port=0, metrics_port=0, exit_timeout_seconds=-3)
    server = await TritonServer.start(files, told)
    with pytest.raises(StartupError, match=r"not ready after 0\.5 s"):
        await server.wait_until_ready(timeout_seconds=0.5)
    await server.stop()
    await until(lambda: not _has_processes(server.pid))


def _has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_log_that_cannot_be_read_has_no_tail(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "none") == ""
    (tmp_path / "log").write_bytes(b"\xff\n" + b"x\n" * 100)
    assert log_tail(tmp_path / "log", lines=2) == "x\nx"
