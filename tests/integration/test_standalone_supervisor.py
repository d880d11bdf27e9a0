"""The supervisor against processes that misbehave in every way that it promises to handle."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from evalfleet.endpoints import STATE_FILE_NAME, find_endpoints

from services.runtime.stopping import StopRequests
from services.standalone.errors import PartFailedError
from services.standalone.keeper import RestartPolicy
from services.standalone.plan import FleetPlan, PartPlan
from services.standalone.ports import take_ports
from services.standalone.processes import is_group_alive
from services.standalone.state import StateFile, prepare
from services.standalone.supervisor import Supervisor
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

FAKE_PART = Path(__file__).parents[1] / "fakes" / "part.py"
QUICK = RestartPolicy(first_delay_seconds=0.01, longest_delay_seconds=0.02, quick_seconds=3600, quick_deaths=3)

MakePlan = Callable[..., FleetPlan]


class Recorder:
    """Remembers what a person would have been told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.changed = asyncio.Event()

    def _add(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    def started(self, part: str, seconds: float) -> None:
        self._add(f"{part} started")

    def died(self, part: str, how: str, restart_in_seconds: float) -> None:
        self._add(f"{part} {how}")

    def recovered(self, part: str, seconds: float) -> None:
        self._add(f"{part} recovered")

    def killed(self, part: str) -> None:
        self._add(f"{part} killed")

    async def wait_for(self, event: str, times: int = 1) -> None:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while self.events.count(event) < times:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """Make a plan of fake processes: name → the environment that makes them misbehave."""
    ports = take_ports(0)

    def make(**parts: dict[str, str]) -> FleetPlan:
        plans = tuple(_fake_part(name, extra, tmp_path, ports.grpc(name)) for name, extra in parts.items())
        plan = FleetPlan(state_dir=tmp_path, inference="triton", parts=plans)
        prepare(plan, tmp_path / "key")
        return plan

    return make


def _fake_part(name: str, extra: dict[str, str], folder: Path, port: int) -> PartPlan:
    ready_file = folder / name / "ready"
    environment = {**os.environ, "EVALFLEET_PORT": str(port), "EVALFLEET_READY_FILE": str(ready_file), **extra}
    return PartPlan(
        name=name,
        command=(sys.executable, str(FAKE_PART)),
        environment=environment,
        folder=folder / name,
        target=f"127.0.0.1:{port}",
        metrics_target=f"127.0.0.1:{port + 1}",
        log_path=folder / "logs" / f"{name}.log",
        ready_file=ready_file,
        start_timeout_seconds=float(extra.get("START_TIMEOUT", LONGEST_WAIT_SECONDS)),
        stop_timeout_seconds=float(extra.get("STOP_TIMEOUT", LONGEST_WAIT_SECONDS)),
    )


class Running:
    """A supervisor at work in a task."""

    def __init__(self, plan: FleetPlan) -> None:
        self.plan = plan
        self.report = Recorder()
        self.stop = StopRequests()
        self.is_up = asyncio.Event()
        supervisor = Supervisor(plan, StateFile(plan), self.report, QUICK)
        self.task = asyncio.create_task(supervisor.run(self.stop, self.is_up.set))

    async def up(self) -> "Running":
        waiting = asyncio.create_task(self.is_up.wait())
        await asyncio.wait((waiting, self.task), timeout=LONGEST_WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        assert self.is_up.is_set(), self.task
        return self

    def pid(self, part: str) -> int:
        return int(json.loads((self.plan.state_dir / STATE_FILE_NAME).read_text())["processes"][part])

    async def end(self) -> None:
        self.stop.request("test")
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await self.task


@contextmanager
def nothing_left(plan: FleetPlan) -> Iterator[None]:
    """Fail if a process that was started for ``plan`` still runs."""
    marker = f"EVALFLEET_READY_FILE={plan.state_dir}".encode()
    yield
    left = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            try:
                if marker in (each / "environ").read_bytes():
                    left.append((each / "cmdline").read_text())
            except OSError:
                continue
    assert left == []


async def test_all_are_healthy_then_all_are_drained_in_order(make_plan: MakePlan) -> None:
    plan = make_plan(inference={}, scoring={}, evaluation={})
    with nothing_left(plan):
        running = await Running(plan).up()
        assert sorted(running.report.events) == ["evaluation started", "inference started", "scoring started"]
        assert find_endpoints(state_dir=plan.state_dir, environ={}).target("scoring") == plan.part("scoring").target
        await running.end()
    assert not (plan.state_dir / STATE_FILE_NAME).exists()
    ends = {each.name: each.log_path.stat().st_mtime_ns for each in plan.parts}
    assert sorted(ends, key=lambda name: ends[name]) == ["evaluation", "scoring", "inference"]
    assert all("drained" in each.log_path.read_text() for each in plan.parts)


async def test_a_dead_process_is_reported_and_started_again(make_plan: MakePlan) -> None:
    plan = make_plan(scoring={}, evaluation={})
    with nothing_left(plan):
        running = await Running(plan).up()
        before = running.pid("scoring")
        os.kill(before, signal.SIGKILL)
        await running.report.wait_for("scoring recovered")
        assert "scoring was killed by SIGKILL" in running.report.events
        assert running.pid("scoring") not in (before, 0)
        await running.end()


async def test_what_a_dead_process_had_started_ends_before_its_successor_starts(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(inference={"FAKE_CHILD": str(tmp_path / "child")})
    with nothing_left(plan):
        running = await Running(plan).up()
        group = running.pid("inference")
        first_child = int((tmp_path / "child").read_text())
        os.kill(group, signal.SIGKILL)
        await running.report.wait_for("inference recovered")
        assert not is_group_alive(group)
        assert int((tmp_path / "child").read_text()) != first_child
        await running.end()


async def test_a_process_that_keeps_dying_is_given_up_and_the_fleet_ends(make_plan: MakePlan, tmp_path: Path) -> None:
    death = tmp_path / "die"
    plan = make_plan(scoring={"FAKE_DIE_WHEN": str(death)}, evaluation={})
    with nothing_left(plan):
        running = await Running(plan).up()
        for deaths in (1, 2):
            death.touch()
            await running.report.wait_for("scoring recovered", times=deaths)
        death.touch()
        with pytest.raises(PartFailedError) as caught:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await running.task
    assert str(caught.value).startswith(
        f"scoring ended with exit code 3, 3 times in a row; it is given up; the end of {plan.part('scoring').log_path}:"
    )
    assert running.report.events.count("scoring ended with exit code 3") == 2
    assert not (plan.state_dir / STATE_FILE_NAME).exists()


async def test_a_process_that_cannot_start_says_why_and_nothing_else_is_left(make_plan: MakePlan) -> None:
    plan = make_plan(safety={"FAKE_EXIT": "safety cannot start: the guard's weights are missing"}, evaluation={})
    with nothing_left(plan), pytest.raises(PartFailedError) as caught:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await Running(plan).task
    log = plan.part("safety").log_path
    assert str(caught.value) == f"safety cannot start: the guard's weights are missing; its log is {log}"
    assert caught.value.part == "safety"


async def test_the_wait_for_health_is_bounded(make_plan: MakePlan) -> None:
    plan = make_plan(generation={"FAKE_NOT_SERVING": "1", "START_TIMEOUT": "3"})
    with nothing_left(plan), pytest.raises(PartFailedError, match="generation was not healthy within 3 s"):
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await Running(plan).task


async def test_a_process_that_does_not_stop_is_killed_and_reported(make_plan: MakePlan) -> None:
    plan = make_plan(scoring={"FAKE_STUBBORN": "1", "STOP_TIMEOUT": "0.3"}, evaluation={})
    with nothing_left(plan):
        running = await Running(plan).up()
        await running.end()
    assert running.report.events[-1] == "scoring killed"


async def test_a_second_request_kills_at_once(make_plan: MakePlan) -> None:
    plan = make_plan(scoring={"FAKE_STUBBORN": "1", "STOP_TIMEOUT": "600"})
    with nothing_left(plan):
        running = await Running(plan).up()
        running.stop.request("first")
        running.stop.request("second")
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await running.task
    assert running.report.events[-1] == "scoring killed"


async def test_a_stop_before_all_are_healthy_leaves_nothing(make_plan: MakePlan) -> None:
    plan = make_plan(generation={"FAKE_NOT_SERVING": "1"}, scoring={})
    with nothing_left(plan):
        running = Running(plan)
        await running.report.wait_for("scoring started")
        await running.end()
    assert not running.is_up.is_set()
    assert not (plan.state_dir / STATE_FILE_NAME).exists()
