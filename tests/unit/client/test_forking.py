"""What becomes of a fleet in a forked child: it works or says why not, and never waits for its parent's threads."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fakes.scripted_safety import ScriptedSafety, serve
from tests.patience import LONGEST_WAIT_SECONDS

PROGRAM = """
import asyncio, os, sys
from evalfleet.aio import AsyncFleet
from evalfleet.errors import EvalFleetError
from evalfleet.fleet import Fleet

target, parent_uses = sys.argv[1], sys.argv[2].split("+")
asked = [("user", "x")]
fleet = Fleet.connect({"safety": target})
awaited = AsyncFleet.connect({"safety": target})

def told(ask):
    try:
        return str(ask().decision)
    except EvalFleetError as error:
        return error.reason

async def ask_awaited():
    return await awaited.safety.classify(asked)

def made_here():
    with Fleet.connect({"safety": target}) as another:
        return another.safety.classify(asked)

ways = {"blocking": lambda: fleet.safety.classify(asked), "awaited": lambda: asyncio.run(ask_awaited())}
print("parent", *[told(ways[each]) for each in parent_uses if each], flush=True)
child = os.fork()
if child == 0:
    print("child", *map(told, [*ways.values(), made_here]), flush=True)
    fleet.close()
    os._exit(0)
os.waitpid(child, 0)
print("parent", *map(told, [*ways.values(), made_here]), flush=True)
"""


@pytest.fixture
def safety() -> Iterator[ScriptedSafety]:
    with serve(ScriptedSafety()) as running:
        yield running


def run(target: str, parent_uses: str, *, is_forking_supported: bool) -> tuple[str, str]:
    """Return what the child says of a fleet, an AsyncFleet and a fleet that it makes itself, and then its parent."""
    environment = dict(os.environ) | {"GRPC_ENABLE_FORK_SUPPORT": "1" if is_forking_supported else "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, target, parent_uses],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=LONGEST_WAIT_SECONDS,
        check=True,
        text=True,
    )
    _, child, parent = done.stdout.splitlines()
    return child, parent


ALL_WORK = "safe safe safe"


@pytest.mark.parametrize("parent_uses", ["blocking", "awaited", "blocking+awaited"])
def test_without_grpcs_support_a_child_is_told_at_once(safety: ScriptedSafety, parent_uses: str) -> None:
    child, parent = run(safety.target, parent_uses, is_forking_supported=False)
    assert child == "child FORKED_PROCESS FORKED_PROCESS FORKED_PROCESS"
    assert parent == f"parent {ALL_WORK}"


def test_with_grpcs_support_a_child_connects_anew(safety: ScriptedSafety) -> None:
    child, parent = run(safety.target, "blocking", is_forking_supported=True)
    assert (child, parent) == (f"child {ALL_WORK}", f"parent {ALL_WORK}")


def test_after_an_event_loops_calls_grpcs_support_does_not_help(safety: ScriptedSafety) -> None:
    child, parent = run(safety.target, "awaited", is_forking_supported=True)
    assert child == "child FORKED_PROCESS FORKED_PROCESS FORKED_PROCESS"
    assert parent == f"parent {ALL_WORK}"


def test_a_fleet_that_was_not_used_may_be_used_in_a_child(safety: ScriptedSafety) -> None:
    child, parent = run(safety.target, "", is_forking_supported=False)
    assert (child, parent) == (f"child {ALL_WORK}", f"parent {ALL_WORK}")
