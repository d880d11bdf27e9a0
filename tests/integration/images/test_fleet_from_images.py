"""The whole fleet out of its images evaluates the demo suite: no root, no capabilities, no writable root."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

from services.standalone.ports import PortBlock, take_ports
from tests.integration.images.containers import USER, Containers, run_in

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SERVICES = ("evaluation", "generation", "safety", "scoring", "aggregation")
HOST = "127.0.0.1"


@dataclass(frozen=True)
class ContainerFleet:
    containers: Containers
    endpoints: Mapping[str, str]


def settings(name: str, ports: PortBlock) -> dict[str, str]:
    """Return what a container is told: what compose.yaml tells it, at ports of the machine."""
    part = "inference" if name == "triton-cpu" else name
    told = {"EVALFLEET_PORT": str(ports.grpc(part)), "EVALFLEET_METRICS_PORT": str(ports.metrics(part))}
    triton = {
        "EVALFLEET_TRITON_TARGET": f"{HOST}:{ports.grpc('inference')}",
        "EVALFLEET_TRITON_KEY_FILE": "/run/evalfleet/model-control.key",
    }
    targets = {f"EVALFLEET_{each.upper()}_TARGET": f"{HOST}:{ports.grpc(each)}" for each in SERVICES}
    encoder = {"EVALFLEET_ENCODER_PATH": "/models/encoder"}
    return (
        told
        | {
            "aggregation": {},
            "evaluation": {variable: target for variable, target in targets.items() if "EVALUATION" not in variable},
            "generation": triton | {"EVALFLEET_CHECKPOINT_ROOTS": "/checkpoints"},
            "safety": triton | encoder,
            "scoring": triton | encoder | {"EVALFLEET_GENERATION_TARGET": targets["EVALFLEET_GENERATION_TARGET"]},
            "triton-cpu": {"EVALFLEET_TRITON_KEY_FILE": triton["EVALFLEET_TRITON_KEY_FILE"]},
        }[name]
    )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Iterator[ContainerFleet]:
    folder = tmp_path_factory.mktemp("containers")
    # What is mounted must be reached by a user without rights.
    for each in (folder, *list(folder.parents)[:2]):
        each.chmod(0o755)
    shutil.copytree(tiny_policy, folder / "checkpoints/tiny")
    for name in ("models", "control-key"):
        (folder / name).mkdir()
        shutil.chown(folder / name, USER, USER)
    ports = take_ports(0)
    mounts = [
        f"{folder}/models:/models:rw",
        f"{folder}/control-key:/run/evalfleet:rw",
        f"{folder}/checkpoints:/checkpoints:ro",
    ]
    run_in("triton-cpu", "python", "-m", "services.inference.encoder_copy", "/models/encoder", mounts=mounts[:1])
    with Containers(folder, mounts) as containers:
        for name in ("triton-cpu", *SERVICES):
            containers.start(name, settings(name, ports), "--shm-size=1g")
        endpoints = {name: f"{HOST}:{ports.grpc(name)}" for name in SERVICES}
        for name, target in {"triton-cpu": f"{HOST}:{ports.grpc('inference')}", **endpoints}.items():
            containers.wait_until_serving(name, target)
        yield ContainerFleet(containers, endpoints)


def test_the_demo_suite_is_evaluated_and_the_fleet_drains(fleet: ContainerFleet) -> None:
    with Fleet.connect(fleet.endpoints) as client:
        model = client.models.add("/checkpoints/tiny").name
        run = client.runs.start(model=model, suite="demo")
        last = list(client.runs.watch(run.name))[-1]

    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    assert {each.task.removeprefix("tasks/") for each in last.run.tasks} == {
        *("demo_arithmetic", "demo_mcq", "demo_requests", "demo_benign_requests")
    }
    for progress in last.run.tasks:
        assert progress.item_count
        assert (progress.scored_count, progress.failed_count) == (progress.item_count, 0)
    assert all(each.value is not None for each in last.estimates)
    for name in ("evaluation", "scoring", "generation", "safety", "aggregation", "triton-cpu"):
        assert fleet.containers.stop(name) == 0, fleet.containers.log(name)
