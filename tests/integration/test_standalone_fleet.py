"""A whole fleet on this machine: real Triton, five services, started and stopped as people do."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import grpc
import psutil
import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import RunState
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.standalone.testing import RunningFleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ProcessesOf = Callable[[Path], dict[int, str]]

WAITING = "waiting for the end of a fleet that was killed"
PARTS = {"inference", "evaluation", "generation", "safety", "scoring", "aggregation"}
GRPC_SERVICES = {
    "evaluation": "evalfleet.evaluation.v1.EvaluationService",
    "generation": "evalfleet.generation.v1.GenerationService",
    "safety": "evalfleet.safety.v1.SafetyService",
    "scoring": "evalfleet.scoring.v1.ScoringService",
    "aggregation": "evalfleet.aggregation.v1.AggregationService",
}


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 200) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def wait_for_output(running: RunningFleet, text: str) -> None:
    wait_until(lambda: text in running.output, text)


@dataclass(frozen=True)
class Succession:
    """A fleet whose supervisor was killed, the processes that it had, and the fleet on its ports and in its folder."""

    killed: RunningFleet
    processes: Mapping[int, str]
    successor: RunningFleet


@pytest.fixture(scope="module")
def succession(
    processes_of: ProcessesOf, tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[Succession]:
    """Two fleets, one after the other; a test may harm the second. The shell of the first knows no environment."""
    path = os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if ".venv" not in each)
    state_dir = tmp_path_factory.mktemp("own-fleet") / "state"
    environment = {"PATH": path, "VIRTUAL_ENV": ""}
    with RunningFleet(state_dir=state_dir, checkpoint_roots=[tiny_checkpoint], environment=environment) as running:
        base = int(running.endpoints["evaluation"].rpartition(":")[2])
        processes = processes_of(state_dir)
        left = running.processes["scoring"]
        successor = RunningFleet(state_dir=state_dir, port_base=base, checkpoint_roots=[tiny_checkpoint])

        def let_go() -> None:
            try:
                wait_until(lambda: hasattr(successor, "process") and WAITING in successor.output, WAITING)
            finally:
                os.kill(left, signal.SIGCONT)

        # It cannot end before the next fleet has seen it.
        os.kill(left, signal.SIGSTOP)
        running.process.kill()
        running.process.wait()
        letting_go = threading.Thread(target=let_go)
        letting_go.start()
        with successor:
            letting_go.join()
            yield Succession(running, processes, successor)


def test_every_service_is_healthy_and_says_so_by_name(processes_of: ProcessesOf, fleet: RunningFleet) -> None:
    for part, service in GRPC_SERVICES.items():
        with grpc.insecure_channel(fleet.endpoints[part]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", service):
                answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, (part, name)
    with grpc.insecure_channel(fleet.triton_target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert set(fleet.processes) == PARTS
    assert any("tritonserver" in each for each in processes_of(fleet.state_dir).values())


def test_nobody_else_can_reach_it(processes_of: ProcessesOf, fleet: RunningFleet) -> None:
    ports: dict[int, str] = {}
    for pid in (fleet.process.pid, *processes_of(fleet.state_dir)):
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        ports |= {each.laddr.port: each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    addresses = [*fleet.endpoints.values(), fleet.triton_target]
    assert {int(each.rpartition(":")[2]) for each in addresses} <= ports.keys()
    # gRPC listens on IPv4 through IPv6 sockets.
    told = {port: ip.removeprefix("::ffff:") for port, ip in ports.items()}
    assert {port: ip for port, ip in told.items() if not ip_address(ip).is_loopback} == {}


def test_endpoints_are_printed_as_plain_text(fleet: RunningFleet) -> None:
    assert "\x1b" not in fleet.output
    for name, target in [*fleet.endpoints.items(), (r"inference \(triton\)", fleet.triton_target)]:
        assert re.search(rf"^{name} +{target} ", fleet.output, re.MULTILINE), name
    assert re.search(r"The fleet is up after \d+\.\d s; Ctrl-C stops it\.", fleet.output)
    assert f"evalfleet --state-dir {fleet.state_dir} run --model DIR --suite demo" in fleet.output


def test_logs_are_files_and_metrics_are_served(fleet: RunningFleet) -> None:
    state = json.loads((fleet.state_dir / "fleet.json").read_text())
    for part in PARTS:
        assert Path(state["logs"][part]).stat().st_size > 0, part
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{state['metrics'][part]}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        assert ("nv_" if part == "inference" else "grpc_server_call") in text, part


def test_a_second_fleet_on_the_same_ports_is_refused_in_a_line(
    processes_of: ProcessesOf, fleet: RunningFleet, tmp_path: Path
) -> None:
    base = int(fleet.endpoints["evaluation"].rpartition(":")[2])
    for arguments, message in (
        ([f"--state-dir={tmp_path}", f"--port-base={base}"], f"Error: port {base}, for evaluation, cannot be used"),
        ([f"--state-dir={fleet.state_dir}", "--port-base=0"], "Error: a fleet (process "),
    ):
        command = [sys.executable, "-m", "evalfleet.cli.main", "up", *arguments]
        second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 1
        assert second.stderr.startswith(message)
        assert second.stderr.count("\n") == 1
        assert second.stdout == ""
    assert processes_of(tmp_path) == {}


def test_a_fleet_starts_although_its_python_environment_is_not_activated(succession: Succession) -> None:
    # Its guard is loaded into Triton before the safety service counts as healthy.
    assert "safety" in succession.killed.endpoints


def test_children_do_not_outlive_a_killed_supervisor_and_the_next_fleet_waits_for_them(
    processes_of: ProcessesOf, succession: Succession
) -> None:
    assert len(succession.processes) > len(PARTS)
    assert succession.successor.endpoints == succession.killed.endpoints
    assert WAITING in succession.successor.output
    assert not succession.processes.keys() & processes_of(succession.successor.state_dir).keys()


def test_dead_processes_come_back_and_ctrl_c_leaves_nothing(
    processes_of: ProcessesOf, succession: Succession, tiny_checkpoint: Path
) -> None:
    running = succession.successor
    with Fleet.connect(state_dir=running.state_dir) as client:
        model = client.models.add(tiny_checkpoint)
        for part in ("scoring", "inference"):
            before = running.processes[part]
            os.kill(before, signal.SIGKILL)
            wait_for_output(running, f"{part} is healthy again after")
            assert f"{part} was killed by SIGKILL; starting it again in 0.5 s" in running.output
            assert running.processes[part] != before
        # The model is loaded into the new Triton without anybody asking for it again.
        run = client.runs.start(model=model.name, suite="demo", item_limit=3)
        assert list(client.runs.watch(run.name))[-1].run.state is RunState.SUCCEEDED

    assert len(processes_of(running.state_dir)) > len(PARTS)
    assert running.stop() == 0
    assert processes_of(running.state_dir) == {}
    assert running.output.splitlines()[-1] == "stopped; no process is left"
    assert not (running.state_dir / "fleet.json").exists()


def test_a_fleet_ends_with_the_process_that_started_it(processes_of: ProcessesOf, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\nfrom services.standalone.testing import RunningFleet\n"
        f"with RunningFleet(state_dir=pathlib.Path({str(tmp_path)!r}), inference='local') as fleet:\n"
        "    print(fleet.process.pid, flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    starter = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert starter.returncode == -signal.SIGKILL, starter.stderr
    wait_until(lambda: processes_of(tmp_path) == {}, "all processes have ended")
    assert not (tmp_path / "fleet.json").exists()


def test_the_engines_without_triton_serve_a_whole_run(
    processes_of: ProcessesOf, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    with RunningFleet(state_dir=tmp_path, inference="local", checkpoint_roots=[tiny_checkpoint]) as running:
        assert not any("tritonserver" in each for each in processes_of(tmp_path).values())
        assert "inference (local)" in running.output
        with Fleet.connect(state_dir=tmp_path) as client:
            model = client.models.add(tiny_checkpoint)
            run = client.runs.start(model=model.name, suite="demo", item_limit=3)
            last = list(client.runs.watch(run.name))[-1]
        assert last.run.state is RunState.SUCCEEDED
        assert all(each.done_count == each.item_count for each in last.run.tasks)
        # As when its terminal is closed.
        running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(120) == 0
    assert processes_of(tmp_path) == {}
