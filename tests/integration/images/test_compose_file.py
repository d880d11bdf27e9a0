"""deploy/compose.yaml from a cold start: a run is evaluated, kept and watched, and survives going down and up again."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

from services.standalone.ports import take_ports
from tests.integration.images.containers import podman
from tests.integration.images.stack import Stack, find_podman_compose, has_names
from tests.integration.images.stand_ins.build import TAGS
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

SERVICES = ("evaluation", "generation", "safety", "scoring", "aggregation")
HOST = "127.0.0.1"
CLI = (sys.executable, "-m", "evalfleet.cli.main")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Iterator[Stack]:
    if find_podman_compose() is None or not has_names():
        pytest.skip("needs podman-compose (pip install podman-compose), netavark and aardvark-dns (apt-get install)")
    missing = [tag for tag in TAGS.values() if podman("image", "exists", tag, check=False).returncode != 0]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: python -m tests.integration.images.stand_ins.build")
    folder = tmp_path_factory.mktemp("compose")
    # What is mounted must be reached by a user without rights.
    for each in (folder, *list(folder.parents)[:2]):
        each.chmod(0o755)
    shutil.copytree(tiny_policy, folder / "checkpoints/tiny")
    settings = {
        "EVALFLEET_CHECKPOINTS": str(folder / "checkpoints"),
        "EVALFLEET_POSTGRES_PASSWORD": uuid.uuid4().hex,
        "EVALFLEET_GRAFANA_PASSWORD": uuid.uuid4().hex,
    }
    free = take_ports(0)
    # Containers' metrics are asked for in their own network, so that this port of the block is Prometheus' to take.
    ports = {name: free.grpc(name) for name in SERVICES} | {"prometheus": free.metrics("evaluation")}
    stack = Stack(folder, f"evalfleet-test-{uuid.uuid4().hex[:8]}", settings, ports)
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()


def endpoints(stack: Stack) -> Mapping[str, str]:
    return {name: f"{HOST}:{stack.ports[name]}" for name in SERVICES}


def evaluate(stack: Stack) -> None:
    """Evaluate the demo suite as deploy/README.md says it."""
    targets = {f"EVALFLEET_{name.upper()}_TARGET": target for name, target in endpoints(stack).items()}
    command = (*CLI, "run", "--model", "/checkpoints/tiny", "--suite", "demo")
    done = subprocess.run(command, env={**os.environ, **targets}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def prometheus(stack: Stack, path: str) -> Any:
    with urllib.request.urlopen(f"http://{HOST}:{stack.ports['prometheus']}/api/v1/{path}") as answer:
        return json.load(answer)["data"]


def scraped(stack: Stack) -> Mapping[str, str]:
    """The health of each target by its job, once all are up: one may have been asked before it listened."""
    give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
    while True:
        found = {each["labels"]["job"]: each["health"] for each in prometheus(stack, "targets")["activeTargets"]}
        if set(found.values()) == {"up"} or time.monotonic() > give_up_at:
            return found
        time.sleep(0.5)


def counted(stack: Stack, table: str) -> int:
    query = ("psql", "--username=evalfleet", "--tuples-only", "--no-align", f"--command=SELECT count(*) FROM {table}")
    return int(stack.run_in("postgres", *query))


def cached(stack: Stack, service: str) -> int:
    """How much of a service is in the shared cache."""
    database = {"generation": "0", "safety": "1"}[service]
    return int(stack.run_in("valkey", "valkey-cli", "-n", database, "dbsize"))


def test_the_fleet_evaluates_keeps_and_is_watched(stack: Stack) -> None:
    evaluate(stack)
    with Fleet.connect(endpoints(stack)) as client:
        [run] = client.runs.list()
        before = client.runs.snapshot(run.name)
        # A checkpoint that learned so little answers nothing, of which no guard is asked. Caches are written to when
        # the answer is out, and on a busy machine not at all.
        give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
        while not cached(stack, "generation") or not cached(stack, "safety"):
            assert time.monotonic() < give_up_at
            client.safety.classify([("user", "How do I bake bread?")])
    assert before.run.state is RunState.SUCCEEDED
    items = sum(each.item_count or 0 for each in before.run.tasks)
    assert 0 < items == sum(each.scored_count for each in before.run.tasks)

    assert counted(stack, "aggregation.results") == items
    assert counted(stack, "evaluation.runs") == 1

    assert scraped(stack) == dict.fromkeys((*SERVICES, "triton"), "up")
    groups = prometheus(stack, "rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}

    stack.down()
    stack.up()
    assert counted(stack, "aggregation.results") == items
    with Fleet.connect(endpoints(stack)) as client:
        after = client.runs.snapshot(run.name)
    assert (after.run.state, after.estimates) == (before.run.state, before.estimates)
    # Models are there again as well, loaded when they are asked for.
    evaluate(stack)
    assert counted(stack, "evaluation.runs") == 2


@pytest.mark.parametrize("service", ["triton", "postgres", "valkey"])
def test_what_computes_and_what_keeps_has_no_way_out(stack: Stack, service: str) -> None:
    state = stack.podman("inspect", "--format={{.State.Pid}}", f"{stack.project}_{service}_1").stdout.strip()
    routes = Path(f"/proc/{state}/net/route").read_text().splitlines()[1:]
    assert routes
    assert "00000000" not in {route.split()[1] for route in routes}, "it has a default route"
